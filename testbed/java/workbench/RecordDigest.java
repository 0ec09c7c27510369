package workbench;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.HexFormat;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.header.Header;

/**
 * SHA-256 over the records of a partition in order: [offset i64] timestamp i64, key, value, header count i32, then
 * name and value of each header. Byte strings are preceded by their length as i32, -1 for null. All big-endian.
 */
final class RecordDigest implements Reader.Sink {
    private final MessageDigest sha256;
    private final boolean offsets;
    private final ByteBuffer scratch = ByteBuffer.allocate(Long.BYTES);

    RecordDigest(boolean offsets) throws Exception {
        this.sha256 = MessageDigest.getInstance("SHA-256");
        this.offsets = offsets;
    }

    @Override
    public void record(ConsumerRecord<byte[], byte[]> r) {
        if (offsets) {
            number(r.offset());
        }
        number(r.timestamp());
        bytes(r.key());
        bytes(r.value());
        Header[] headers = r.headers().toArray();
        length(headers.length);
        for (Header h : headers) {
            bytes(h.key().getBytes(StandardCharsets.UTF_8));
            bytes(h.value());
        }
    }

    private void bytes(byte[] data) {
        length(data == null ? -1 : data.length);
        if (data != null) {
            sha256.update(data);
        }
    }

    private void number(long value) {
        scratch.clear().putLong(value);
        sha256.update(scratch.array(), 0, Long.BYTES);
    }

    private void length(int value) {
        scratch.clear().putInt(value);
        sha256.update(scratch.array(), 0, Integer.BYTES);
    }

    String hex() {
        return HexFormat.of().formatHex(sha256.digest());
    }
}
