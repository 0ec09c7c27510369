package workbench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.File;
import java.util.Arrays;
import org.apache.kafka.common.record.FileLogInputStream.FileChannelRecordBatch;
import org.apache.kafka.common.record.FileRecords;
import org.apache.kafka.common.record.RecordBatch;

/** Looks at batches as they lie in a broker's log directory. */
final class Segments {
    JsonNode batches(JsonNode args) throws Exception {
        File[] segments = new File(args.get("dir").asText()).listFiles((d, name) -> name.endsWith(".log"));
        if (segments == null) {
            throw new IllegalArgumentException("no log directory " + args.get("dir").asText());
        }
        Arrays.sort(segments); // names are zero-padded base offsets
        ArrayNode out = Main.JSON.createArrayNode();
        for (File segment : segments) {
            try (FileRecords records = FileRecords.open(segment, false)) {
                for (FileChannelRecordBatch batch : records.batches()) {
                    describe(out.addObject(), batch);
                }
            }
        }
        return out;
    }

    private static void describe(ObjectNode out, RecordBatch batch) {
        Integer count = batch.countOrNull();
        out.put("base_offset", batch.baseOffset()).put("last_offset", batch.lastOffset());
        out.put("records", count == null ? -1 : count).put("bytes", batch.sizeInBytes()).put("magic", batch.magic());
        out.put("codec", batch.compressionType().name).put("timestamp_type", batch.timestampType().toString());
        out.put("max_timestamp", batch.maxTimestamp());
        out.put("producer_id", batch.producerId()).put("producer_epoch", batch.producerEpoch());
        out.put("transactional", batch.isTransactional()).put("control", batch.isControlBatch());
        out.put("delete_horizon", batch.deleteHorizonMs().isPresent());
    }
}
