package workbench;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.HashMap;
import java.util.Map;

/** The table of verbs. */
final class Verbs {
    /** One verb: arguments in, answer out. */
    interface Verb {
        JsonNode call(JsonNode args) throws Exception;
    }

    private final Map<String, Verb> verbs = new HashMap<>();

    Verbs(String bootstrap) {
        Topics topics = new Topics(bootstrap);
        verbs.put("create_topic", topics::create);
        verbs.put("delete_topic", topics::delete);
        verbs.put("topics", topics::list);
        verbs.put("describe", topics::describe);
        verbs.put("alter_config", topics::alterConfig);
        verbs.put("add_partitions", topics::addPartitions);
        verbs.put("delete_records", topics::deleteRecords);

        ClusterAdmin cluster = new ClusterAdmin(topics.admin());
        verbs.put("brokers", cluster::brokers);
        verbs.put("reassign", cluster::reassign);
        verbs.put("move_leader", cluster::moveLeader);
        verbs.put("commit_offsets", cluster::commitOffsets);
        verbs.put("group_offsets", cluster::groupOffsets);
        verbs.put("groups", cluster::groups);
        verbs.put("delete_group", cluster::deleteGroup);
        verbs.put("set_quota", cluster::setQuota);
        verbs.put("deny", cluster::deny);

        Access access = new Access(topics.admin());
        verbs.put("allow", access::allow);
        verbs.put("revoke", access::revoke);
        verbs.put("look", access::look);
        verbs.put("set_scram_users", access::setScramUsers);

        Consumers consumers = new Consumers(bootstrap);
        verbs.put("join", consumers::join);
        verbs.put("leave", consumers::leave);

        Producers producers = new Producers(bootstrap);
        verbs.put("produce", producers::produce);
        verbs.put("generate", producers::generate);
        verbs.put("txn_begin", producers::begin);
        verbs.put("txn_send", producers::send);
        verbs.put("txn_offsets", producers::offsets);
        verbs.put("txn_commit", producers::commit);
        verbs.put("txn_abort", producers::abort);
        verbs.put("txn_drop", producers::drop);

        Reader reader = new Reader(bootstrap);
        verbs.put("dump", reader::dump);
        verbs.put("digest", reader::digest);
        verbs.put("batches", new Segments()::batches);
    }

    JsonNode call(String verb, JsonNode args) throws Exception {
        Verb found = verbs.get(verb);
        if (found == null) {
            throw new IllegalArgumentException("no such verb: " + verb);
        }
        return found.call(args);
    }
}
