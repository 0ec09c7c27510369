package workbench;

import com.fasterxml.jackson.core.JsonGenerator;
import java.io.IOException;
import java.io.OutputStream;
import java.security.MessageDigest;
import java.util.HexFormat;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.header.Header;

/** Records as JSON lines; a value above the inline limit stands as its length and SHA-256. */
final class RecordLines implements Reader.Sink {
    private final JsonGenerator json;
    private final int inlineLimit;
    private final MessageDigest sha256;

    RecordLines(OutputStream out, int inlineLimit) throws Exception {
        this.json = Main.JSON.getFactory().createGenerator(out);
        this.json.setRootValueSeparator(null);
        this.json.disable(JsonGenerator.Feature.AUTO_CLOSE_TARGET);
        this.inlineLimit = inlineLimit;
        this.sha256 = MessageDigest.getInstance("SHA-256");
    }

    @Override
    public void record(ConsumerRecord<byte[], byte[]> r) throws IOException {
        json.writeStartObject();
        json.writeNumberField("partition", r.partition());
        json.writeNumberField("offset", r.offset());
        json.writeNumberField("timestamp", r.timestamp());
        json.writeStringField("timestampType", r.timestampType().toString());
        json.writeFieldName("key");
        bytes(r.key());
        json.writeFieldName("value");
        bytes(r.value());
        json.writeArrayFieldStart("headers");
        for (Header h : r.headers()) {
            json.writeStartArray();
            json.writeString(h.key());
            bytes(h.value());
            json.writeEndArray();
        }
        json.writeEndArray();
        json.writeEndObject();
        json.writeRaw('\n');
    }

    private void bytes(byte[] data) throws IOException {
        if (data == null) {
            json.writeNull();
        } else if (data.length <= inlineLimit) {
            json.writeBinary(data);
        } else {
            json.writeStartObject();
            json.writeNumberField("length", data.length);
            json.writeStringField("sha256", HexFormat.of().formatHex(sha256.digest(data)));
            json.writeEndObject();
        }
    }

    void flush() throws IOException {
        json.flush();
    }
}
