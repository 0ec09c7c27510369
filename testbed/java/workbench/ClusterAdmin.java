package workbench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.errors.ElectionNotNeededException;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.quota.ClientQuotaAlteration;
import org.apache.kafka.common.quota.ClientQuotaEntity;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;

/** Verbs about brokers, replicas, consumer groups and quotas. */
final class ClusterAdmin {
    private final Admin admin;

    ClusterAdmin(Admin admin) {
        this.admin = admin;
    }

    JsonNode brokers(JsonNode args) throws Exception {
        ArrayNode out = Main.JSON.createArrayNode();
        Collection<Node> nodes = admin.describeCluster().nodes().get();
        nodes.stream().sorted(Comparator.comparing(Node::id)).forEach(
                n -> out.addObject().put("id", n.id()).put("host", n.host()).put("port", n.port()));
        return out;
    }

    JsonNode reassign(JsonNode args) throws Exception {
        List<Integer> replicas = new ArrayList<>();
        args.get("replicas").forEach(r -> replicas.add(r.asInt()));
        reassign(partition(args), replicas);
        return Main.JSON.createObjectNode();
    }

    private void reassign(TopicPartition tp, List<Integer> replicas) throws Exception {
        admin.alterPartitionReassignments(Map.of(tp, Optional.of(new NewPartitionReassignment(replicas)))).all().get();
        Waits.until("replicas of " + tp + " are " + replicas, () ->
                admin.listPartitionReassignments(Set.of(tp)).reassignments().get().isEmpty()
                        && ids(describe(tp).replicas()).equals(replicas));
    }

    /** Makes one broker the leader: it becomes the preferred replica, a new replica when it was none. */
    JsonNode moveLeader(JsonNode args) throws Exception {
        TopicPartition tp = partition(args);
        int to = args.get("to").asInt();
        List<Integer> old = ids(describe(tp).replicas());
        List<Integer> replicas = new ArrayList<>(old);
        replicas.remove((Integer) to);
        replicas.add(0, to);
        reassign(tp, replicas.subList(0, old.size()));
        try {
            admin.electLeaders(ElectionType.PREFERRED, Set.of(tp)).all().get();
        } catch (Exception failure) {
            if (!(failure.getCause() instanceof ElectionNotNeededException)) {
                throw failure;
            }
        }
        Waits.until(to + " leads " + tp, () -> describe(tp).leader() != null && describe(tp).leader().id() == to);
        return Main.JSON.createObjectNode();
    }

    private TopicPartitionInfo describe(TopicPartition tp) throws Exception {
        return admin.describeTopics(List.of(tp.topic())).allTopicNames().get().get(tp.topic()).partitions().get(tp.partition());
    }

    private static List<Integer> ids(List<Node> nodes) {
        List<Integer> out = new ArrayList<>();
        nodes.forEach(n -> out.add(n.id()));
        return out;
    }

    private static TopicPartition partition(JsonNode args) {
        return new TopicPartition(args.get("topic").asText(), args.get("partition").asInt());
    }

    JsonNode commitOffsets(JsonNode args) throws Exception {
        admin.alterConsumerGroupOffsets(args.get("group").asText(), positions(args.get("offsets"))).all().get();
        return Main.JSON.createObjectNode();
    }

    static Map<TopicPartition, OffsetAndMetadata> positions(JsonNode list) {
        Map<TopicPartition, OffsetAndMetadata> out = new HashMap<>();
        list.forEach(o -> out.put(partition(o),
                new OffsetAndMetadata(o.get("offset").asLong(), Optional.empty(), o.get("metadata").asText())));
        return out;
    }

    JsonNode groupOffsets(JsonNode args) throws Exception {
        Map<TopicPartition, OffsetAndMetadata> sorted =
                new TreeMap<>(Comparator.comparing(TopicPartition::topic).thenComparing(TopicPartition::partition));
        sorted.putAll(admin.listConsumerGroupOffsets(args.get("group").asText()).partitionsToOffsetAndMetadata().get());
        ArrayNode out = Main.JSON.createArrayNode();
        sorted.forEach((tp, o) -> {
            if (o != null) {
                ObjectNode node = out.addObject().put("topic", tp.topic()).put("partition", tp.partition());
                node.put("offset", o.offset()).put("metadata", o.metadata());
            }
        });
        return out;
    }

    JsonNode groups(JsonNode args) throws Exception {
        Set<String> names = new TreeSet<>();
        admin.listGroups().all().get().forEach(g -> names.add(g.groupId()));
        ArrayNode out = Main.JSON.createArrayNode();
        names.forEach(out::add);
        return out;
    }

    JsonNode deleteGroup(JsonNode args) throws Exception {
        admin.deleteConsumerGroups(List.of(args.get("group").asText())).all().get();
        return Main.JSON.createObjectNode();
    }

    /** Sets a quota (bytes a second, null removes it) for every client id that has no quota of its own. */
    JsonNode setQuota(JsonNode args) throws Exception {
        Map<String, String> anyClient = new HashMap<>();
        anyClient.put(ClientQuotaEntity.CLIENT_ID, null);
        JsonNode rate = args.get("bytes_per_second");
        ClientQuotaAlteration.Op op =
                new ClientQuotaAlteration.Op(args.get("quota").asText(), rate.isNull() ? null : rate.asDouble());
        admin.alterClientQuotas(List.of(new ClientQuotaAlteration(new ClientQuotaEntity(anyClient), List.of(op)))).all().get();
        return Main.JSON.createObjectNode();
    }

    /** Denies everybody operations on resources of a type whose names begin so; the cluster itself is kafka-cluster. */
    JsonNode deny(JsonNode args) throws Exception {
        ResourcePattern pattern =
                new ResourcePattern(
                        ResourceType.fromString(args.get("type").asText()),
                        args.get("name").asText(),
                        PatternType.fromString(args.get("pattern").asText()));
        List<AclBinding> bindings = new ArrayList<>();
        for (JsonNode operation : args.get("operations")) {
            AclOperation denied = AclOperation.fromString(operation.asText());
            bindings.add(new AclBinding(pattern, new AccessControlEntry("User:*", "*", denied, AclPermissionType.DENY)));
        }
        admin.createAcls(bindings).all().get();
        return Main.JSON.createObjectNode();
    }
}
