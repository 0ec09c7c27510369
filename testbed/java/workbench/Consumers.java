package workbench;

import com.fasterxml.jackson.databind.JsonNode;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Members of consumer groups, which stay until they are told to leave. */
final class Consumers {
    private static final Duration POLL = Duration.ofMillis(100);

    /** A consumer and the thread that polls it. */
    private static final class Member extends Thread {
        private final KafkaConsumer<byte[], byte[]> consumer;
        private volatile boolean assigned;
        private volatile Exception failure;

        Member(KafkaConsumer<byte[], byte[]> consumer) {
            this.consumer = consumer;
            setDaemon(true);
        }

        @Override
        public void run() {
            try (consumer) {
                while (true) {
                    consumer.poll(POLL);
                    assigned = !consumer.assignment().isEmpty();
                }
            } catch (WakeupException told) {
                // closed on the way out
            } catch (Exception e) {
                failure = e;
            }
        }
    }

    private final String bootstrap;
    private final Map<String, Member> members = new ConcurrentHashMap<>();

    Consumers(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    /** Joins a group, by one of its protocols (classic, consumer), and waits until it has partitions. */
    JsonNode join(JsonNode args) throws Exception {
        String group = args.get("group").asText();
        KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(Map.of(
                "bootstrap.servers", bootstrap,
                "group.id", group,
                "group.protocol", args.get("protocol").asText(),
                "auto.offset.reset", "earliest",
                "enable.auto.commit", args.get("commit").asBoolean(),
                "auto.commit.interval.ms", 100,
                "key.deserializer", ByteArrayDeserializer.class,
                "value.deserializer", ByteArrayDeserializer.class));
        consumer.subscribe(List.of(args.get("topic").asText()));
        Member member = new Member(consumer);
        members.put(group, member);
        member.start();
        Waits.until(group + " has partitions", () -> {
            if (member.failure != null) {
                throw member.failure;
            }
            return member.assigned;
        });
        return Main.JSON.createObjectNode();
    }

    /** Leaves it. */
    JsonNode leave(JsonNode args) throws Exception {
        Member member = members.remove(args.get("group").asText());
        member.consumer.wakeup();
        member.join();
        return Main.JSON.createObjectNode();
    }
}
