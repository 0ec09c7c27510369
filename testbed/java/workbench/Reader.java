package workbench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedOutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Verbs that read a topic from its start to the end it has when the verb starts. */
final class Reader {
    private static final Duration POLL = Duration.ofMillis(200);
    private static final long STALL_MS = 30_000;

    /** Takes the records of one partition in order. */
    interface Sink {
        void record(ConsumerRecord<byte[], byte[]> record) throws Exception;
    }

    private final String bootstrap;

    Reader(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    /** One JSON line per record, partitions ascending. */
    JsonNode dump(JsonNode args) throws Exception {
        Path out = Path.of(args.get("out").asText());
        try (var stream = new BufferedOutputStream(Files.newOutputStream(out), 1 << 20)) {
            RecordLines lines = new RecordLines(stream, args.get("inline_limit").asInt());
            JsonNode summary = read(args, (partition, node) -> lines);
            lines.flush();
            return summary;
        }
    }

    /** A digest and counts per partition, nothing written. */
    JsonNode digest(JsonNode args) throws Exception {
        boolean offsets = args.get("offsets").asBoolean();
        Map<Integer, RecordDigest> digests = new HashMap<>();
        ArrayNode summary = read(args, (partition, node) -> {
            RecordDigest digest = new RecordDigest(offsets);
            digests.put(partition, digest);
            return digest;
        });
        for (JsonNode node : summary) {
            ((ObjectNode) node).put("sha256", digests.get(node.get("partition").asInt()).hex());
        }
        return summary;
    }

    /** Makes the sink of a partition. */
    private interface Sinks {
        Sink of(int partition, ObjectNode summary) throws Exception;
    }

    private ArrayNode read(JsonNode args, Sinks sinks) throws Exception {
        String topic = args.get("topic").asText();
        ArrayNode summary = Main.JSON.createArrayNode();
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(args.get("isolation").asText())) {
            Set<Integer> partitions = new TreeSet<>();
            for (PartitionInfo info : consumer.partitionsFor(topic)) {
                partitions.add(info.partition());
            }
            if (partitions.isEmpty()) {
                throw new IllegalArgumentException("there is no topic " + topic);
            }
            List<TopicPartition> all = partitions.stream().map(p -> new TopicPartition(topic, p)).toList();
            Map<TopicPartition, Long> starts = consumer.beginningOffsets(all);
            Map<TopicPartition, Long> ends = consumer.endOffsets(all);
            for (TopicPartition tp : all) {
                ObjectNode node = summary.addObject().put("partition", tp.partition());
                node.put("start", starts.get(tp)).put("end", ends.get(tp));
                Sink sink = sinks.of(tp.partition(), node);
                readPartition(consumer, tp, new long[] {starts.get(tp), ends.get(tp)}, node, sink);
            }
        }
        return summary;
    }

    /** Markers, aborted data and compacted tails give no record: only the position tells that the end is reached. */
    private static void readPartition(
            KafkaConsumer<byte[], byte[]> consumer, TopicPartition tp, long[] range, ObjectNode summary, Sink sink)
            throws Exception {
        long records = 0;
        long bytes = 0;
        consumer.assign(List.of(tp));
        consumer.seek(tp, range[0]);
        long position = range[0];
        long moved = System.currentTimeMillis();
        while (position < range[1]) {
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(POLL)) {
                if (record.offset() < range[1]) {
                    records++;
                    bytes += Math.max(0, record.serializedKeySize()) + Math.max(0, record.serializedValueSize());
                    sink.record(record);
                }
            }
            long now = System.currentTimeMillis();
            if (consumer.position(tp) != position) {
                position = consumer.position(tp);
                moved = now;
            } else if (now - moved > STALL_MS) {
                throw new IllegalStateException(
                        tp + " gave nothing for " + STALL_MS + " ms at offset " + position + " of " + range[1]);
            }
        }
        summary.put("records", records).put("bytes", bytes);
    }

    private KafkaConsumer<byte[], byte[]> consumer(String isolation) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("key.deserializer", ByteArrayDeserializer.class);
        settings.put("value.deserializer", ByteArrayDeserializer.class);
        settings.put("isolation.level", isolation);
        settings.put("enable.auto.commit", false);
        settings.put("auto.offset.reset", "none"); // a jump would hide missing records
        settings.put("allow.auto.create.topics", false);
        settings.put("fetch.max.bytes", 32 << 20);
        settings.put("max.partition.fetch.bytes", 16 << 20);
        settings.put("fetch.max.wait.ms", 5); // the read-ahead past a partition's end holds up the next one
        settings.put("receive.buffer.bytes", 1 << 20);
        settings.put("max.poll.records", 5000);
        return new KafkaConsumer<>(settings);
    }
}
