package workbench;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Random;
import org.apache.kafka.clients.producer.ProducerRecord;

/**
 * Seeded records: record i goes to partition i modulo their number, with key and value a function of (seed, i).
 * The value starts with i and repeats every other 64 bytes when it is to be compressible.
 */
final class Generator {
    private static final int BLOCK = 4 << 20;
    private static final int STRIPE = 64;

    private final String topic;
    private final int partitions;
    private final long count;
    private final byte[] key;
    private final byte[] value;
    private final long distinctKeys;
    private final Long firstTimestamp;
    private final long timestampStep;
    private final byte[] block = new byte[BLOCK];
    private final long salt;

    Generator(JsonNode args) {
        topic = args.get("topic").asText();
        partitions = args.get("partitions").asInt();
        count = args.get("count").asLong();
        key = new byte[args.get("key_bytes").asInt()];
        value = new byte[args.get("value_bytes").asInt()];
        distinctKeys = args.get("distinct_keys").asLong();
        firstTimestamp = args.get("first_timestamp").isNull() ? null : args.get("first_timestamp").asLong();
        timestampStep = args.get("timestamp_step").asLong();
        Random random = new Random(args.get("seed").asLong());
        random.nextBytes(block);
        salt = random.nextLong();
        if (args.get("compressible").asBoolean()) {
            for (int at = 0; at + STRIPE <= BLOCK; at += 2 * STRIPE) {
                Arrays.fill(block, at, at + STRIPE, (byte) 'b');
            }
        }
    }

    long count() {
        return count;
    }

    /** The client copies key and value before send returns, so both arrays are used again. */
    ProducerRecord<byte[], byte[]> record(long i) {
        fill(key, distinctKeys > 0 ? i % distinctKeys : i);
        fill(value, i);
        Long timestamp = firstTimestamp == null ? null : firstTimestamp + i * timestampStep;
        byte[] k = key.length == 0 ? null : key;
        return new ProducerRecord<>(topic, (int) (i % partitions), timestamp, k, value);
    }

    private void fill(byte[] out, long i) {
        long from = (i * 0x9E3779B97F4A7C15L + salt) >>> 1;
        for (int at = 0; at < out.length; ) {
            int start = (int) ((from + at) % BLOCK);
            int n = Math.min(out.length - at, BLOCK - start);
            System.arraycopy(block, start, out, at, n);
            at += n;
        }
        if (out.length >= Long.BYTES) {
            ByteBuffer.wrap(out).putLong(i);
        }
    }
}
