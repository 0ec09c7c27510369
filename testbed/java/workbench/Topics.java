package workbench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.ListTopicsOptions;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.admin.TopicListing;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** Verbs about topics. Changes are waited for: what was created or deleted is so for every later request. */
final class Topics {
    private final Admin admin;

    Topics(String bootstrap) {
        admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "client.id", "workbench"));
    }

    Admin admin() {
        return admin;
    }

    JsonNode create(JsonNode args) throws Exception {
        String name = args.get("name").asText();
        Map<String, String> configs = new HashMap<>();
        args.get("configs").properties().forEach(e -> configs.put(e.getKey(), e.getValue().asText()));
        int partitions = args.get("partitions").asInt();
        Optional<Short> replicas = Optional.of(args.get("rf")).filter(n -> !n.isNull()).map(n -> (short) n.asInt());
        NewTopic topic = new NewTopic(name, Optional.of(partitions), replicas).configs(configs);
        Waits.until("the name " + name + " is free", () -> created(topic));
        untilLed(name, partitions);
        return Main.JSON.createObjectNode();
    }

    /** With ZooKeeper a topic that is being deleted leaves the metadata before its name is free. */
    private boolean created(NewTopic topic) throws Exception {
        try {
            Waits.get(admin.createTopics(List.of(topic)).all());
            return true;
        } catch (TopicExistsException exists) {
            if (admin.listTopics().names().get().contains(topic.name())) {
                throw exists;
            }
            return false;
        }
    }

    /**
     * A broker is told to be a leader before it has made the log. A producer that comes in between may have its first batch refused
     * and its second one stored.
     */
    private void untilLed(String name, int partitions) throws Exception {
        Waits.until("topic " + name + " has " + partitions + " leaders", () -> leaders(name) == partitions);
        Waits.until("topic " + name + " has logs", () -> hasLogs(name));
    }

    /** Another broker than that which told of the leaders may be asked, and not know the topic yet. */
    private boolean hasLogs(String name) throws Exception {
        try {
            TopicDescription topic = Waits.get(admin.describeTopics(List.of(name)).allTopicNames()).get(name);
            listOffsets(topic, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED);
            return true;
        } catch (UnknownTopicOrPartitionException notYet) {
            return false;
        }
    }

    private int leaders(String name) throws Exception {
        try {
            int found = 0;
            for (TopicPartitionInfo p : Waits.get(admin.describeTopics(List.of(name)).allTopicNames()).get(name).partitions()) {
                found += p.leader() != null && !p.leader().isEmpty() ? 1 : 0;
            }
            return found;
        } catch (UnknownTopicOrPartitionException notYet) {
            return 0;
        }
    }

    JsonNode delete(JsonNode args) throws Exception {
        String name = args.get("name").asText();
        admin.deleteTopics(List.of(name)).all().get();
        Waits.until("topic " + name + " is gone", () -> !admin.listTopics().names().get().contains(name));
        return Main.JSON.createObjectNode();
    }

    JsonNode list(JsonNode args) throws Exception {
        boolean internal = args.get("internal").asBoolean();
        ArrayNode names = Main.JSON.createArrayNode();
        Map<String, TopicListing> found =
                admin.listTopics(new ListTopicsOptions().listInternal(internal)).namesToListings().get();
        new TreeMap<>(found).keySet().forEach(names::add);
        return names;
    }

    JsonNode describe(JsonNode args) throws Exception {
        String name = args.get("name").asText();
        TopicDescription topic = admin.describeTopics(List.of(name)).allTopicNames().get().get(name);
        Map<TopicPartition, Long> starts = listOffsets(topic, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED);
        Map<TopicPartition, Long> ends = listOffsets(topic, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED);
        Map<TopicPartition, Long> stable = listOffsets(topic, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED);
        ObjectNode out = Main.JSON.createObjectNode();
        out.put("name", name).put("id", topic.topicId().toString()).put("internal", topic.isInternal());
        ArrayNode partitions = out.putArray("partitions");
        for (TopicPartitionInfo p : topic.partitions()) {
            TopicPartition tp = new TopicPartition(name, p.partition());
            ObjectNode node = partitions.addObject();
            node.put("partition", p.partition()).put("leader", p.leader() == null ? -1 : p.leader().id());
            node.put("start", starts.get(tp)).put("end", ends.get(tp)).put("stable_end", stable.get(tp));
            ids(node.putArray("replicas"), p.replicas());
            ids(node.putArray("isr"), p.isr());
        }
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, name);
        ArrayNode configs = out.putArray("configs");
        for (ConfigEntry e : admin.describeConfigs(List.of(resource)).all().get().get(resource).entries()) {
            configs.addObject().put("name", e.name()).put("value", e.value()).put("source", e.source().name());
        }
        return out;
    }

    private static void ids(ArrayNode out, List<Node> nodes) {
        nodes.forEach(n -> out.add(n.id()));
    }

    private Map<TopicPartition, Long> listOffsets(TopicDescription topic, OffsetSpec spec, IsolationLevel level)
            throws Exception {
        Map<TopicPartition, OffsetSpec> ask = new HashMap<>();
        topic.partitions().forEach(p -> ask.put(new TopicPartition(topic.name(), p.partition()), spec));
        Map<TopicPartition, Long> out = new HashMap<>();
        Waits.get(admin.listOffsets(ask, new ListOffsetsOptions(level)).all()).forEach((tp, r) -> out.put(tp, r.offset()));
        return out;
    }

    /** Sets and deletes topic configs, and waits until the brokers report the new values. */
    JsonNode alterConfig(JsonNode args) throws Exception {
        String name = args.get("name").asText();
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, name);
        Map<String, String> set = new HashMap<>();
        List<AlterConfigOp> ops = new ArrayList<>();
        args.get("set").properties().forEach(e -> {
            set.put(e.getKey(), e.getValue().asText());
            ops.add(new AlterConfigOp(new ConfigEntry(e.getKey(), e.getValue().asText()), AlterConfigOp.OpType.SET));
        });
        args.get("delete").forEach(
                k -> ops.add(new AlterConfigOp(new ConfigEntry(k.asText(), null), AlterConfigOp.OpType.DELETE)));
        admin.incrementalAlterConfigs(Map.of(resource, ops)).all().get();
        Waits.until("configs of " + name + " are in force", () -> {
            var now = admin.describeConfigs(List.of(resource)).all().get().get(resource);
            return set.entrySet().stream().allMatch(e -> e.getValue().equals(now.get(e.getKey()).value()));
        });
        return Main.JSON.createObjectNode();
    }

    JsonNode addPartitions(JsonNode args) throws Exception {
        String name = args.get("name").asText();
        int total = args.get("total").asInt();
        admin.createPartitions(Map.of(name, NewPartitions.increaseTo(total))).all().get();
        untilLed(name, total);
        return Main.JSON.createObjectNode();
    }

    JsonNode deleteRecords(JsonNode args) throws Exception {
        TopicPartition tp = new TopicPartition(args.get("name").asText(), args.get("partition").asInt());
        RecordsToDelete before = RecordsToDelete.beforeOffset(args.get("before").asLong());
        long low = admin.deleteRecords(Map.of(tp, before)).lowWatermarks().get(tp).get().lowWatermark();
        return Main.JSON.createObjectNode().put("start", low);
    }
}
