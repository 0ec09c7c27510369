package workbench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Verbs that write. Each call of produce uses a fresh producer (so a fresh producer id); transactional producers
 * live under a name until they are dropped.
 */
final class Producers {
    private final String bootstrap;
    private final Map<String, KafkaProducer<byte[], byte[]>> named = new ConcurrentHashMap<>();

    Producers(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    JsonNode produce(JsonNode args) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings(args))) {
            return sendAll(producer, args);
        }
    }

    /** Records made from a seed; only counts come back. */
    JsonNode generate(JsonNode args) throws Exception {
        Generator generator = new Generator(args);
        AtomicReference<Exception> failure = new AtomicReference<>();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings(args))) {
            for (long i = 0; i < generator.count() && failure.get() == null; i++) {
                producer.send(generator.record(i), (metadata, e) -> {
                    if (e != null) {
                        failure.compareAndSet(null, e);
                    }
                });
            }
            producer.flush();
        }
        if (failure.get() != null) {
            throw failure.get();
        }
        return Main.JSON.createObjectNode().put("records", generator.count());
    }

    JsonNode begin(JsonNode args) {
        String name = args.get("producer").asText();
        KafkaProducer<byte[], byte[]> producer = named.computeIfAbsent(name, n -> {
            Map<String, Object> settings = settings(args);
            settings.put("transactional.id", n);
            settings.put("transaction.timeout.ms", args.get("timeout_ms").asInt());
            KafkaProducer<byte[], byte[]> made = new KafkaProducer<>(settings);
            made.initTransactions();
            return made;
        });
        producer.beginTransaction();
        return Main.JSON.createObjectNode();
    }

    JsonNode send(JsonNode args) throws Exception {
        return sendAll(producer(args), args);
    }

    JsonNode offsets(JsonNode args) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("group.id", args.get("group").asText());
        settings.put("key.deserializer", ByteArrayDeserializer.class);
        settings.put("value.deserializer", ByteArrayDeserializer.class);
        try (KafkaConsumer<byte[], byte[]> outsider = new KafkaConsumer<>(settings)) {
            producer(args).sendOffsetsToTransaction(
                    ClusterAdmin.positions(args.get("offsets")), outsider.groupMetadata());
        }
        return Main.JSON.createObjectNode();
    }

    JsonNode commit(JsonNode args) {
        producer(args).commitTransaction();
        return Main.JSON.createObjectNode();
    }

    JsonNode abort(JsonNode args) {
        producer(args).abortTransaction();
        return Main.JSON.createObjectNode();
    }

    /** Forgets a producer without ending its transaction, as a crash would. */
    JsonNode drop(JsonNode args) {
        producer(args).close(Duration.ZERO);
        named.remove(args.get("producer").asText());
        return Main.JSON.createObjectNode();
    }

    private KafkaProducer<byte[], byte[]> producer(JsonNode args) {
        String name = args.get("producer").asText();
        KafkaProducer<byte[], byte[]> producer = named.get(name);
        if (producer == null) {
            throw new IllegalStateException("no transaction was begun by a producer named " + name);
        }
        return producer;
    }

    private Map<String, Object> settings(JsonNode args) {
        Map<String, Object> out = new HashMap<>();
        out.put("bootstrap.servers", bootstrap);
        out.put("key.serializer", ByteArraySerializer.class);
        out.put("value.serializer", ByteArraySerializer.class);
        out.put("max.request.size", 128 << 20);
        out.put("buffer.memory", 256L << 20);
        out.put("send.buffer.bytes", 1 << 20);
        out.put("max.block.ms", 120_000);
        args.get("settings").properties().forEach(e -> out.put(e.getKey(), e.getValue().asText()));
        return out;
    }

    /** Sends the given records; a flush after each flush_every records bounds a batch to that many. */
    private static JsonNode sendAll(KafkaProducer<byte[], byte[]> producer, JsonNode args) throws Exception {
        String topic = args.get("topic").asText();
        int flushEvery = args.get("flush_every").asInt();
        List<Future<RecordMetadata>> acks = new ArrayList<>();
        for (JsonNode record : args.get("records")) {
            acks.add(producer.send(record(topic, record)));
            if (flushEvery > 0 && acks.size() % flushEvery == 0) {
                producer.flush();
            }
        }
        producer.flush();
        Map<Integer, ObjectNode> perPartition = new TreeMap<>();
        for (Future<RecordMetadata> future : acks) {
            RecordMetadata ack = future.get();
            ObjectNode node = perPartition.computeIfAbsent(ack.partition(), p -> Main.JSON.createObjectNode()
                    .put("partition", p).put("first", ack.offset()).put("records", 0L));
            node.put("last", ack.offset()).put("last_timestamp", ack.timestamp());
            node.put("records", node.get("records").asLong() + 1);
        }
        ArrayNode out = Main.JSON.createArrayNode();
        perPartition.values().forEach(out::add);
        return out;
    }

    private static ProducerRecord<byte[], byte[]> record(String topic, JsonNode r) throws Exception {
        RecordHeaders headers = new RecordHeaders();
        for (JsonNode h : r.get("headers")) {
            headers.add(h.get(0).asText(), bytes(h.get(1)));
        }
        Long timestamp = r.get("timestamp").isNull() ? null : r.get("timestamp").asLong();
        return new ProducerRecord<>(
                topic, r.get("partition").asInt(), timestamp, bytes(r.get("key")), bytes(r.get("value")), headers);
    }

    private static byte[] bytes(JsonNode node) throws Exception {
        return node.isNull() ? null : node.binaryValue();
    }
}
