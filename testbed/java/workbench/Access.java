package workbench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.TreeSet;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialAlteration;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;

/** Verbs about who is let in and what they may do. */
final class Access {
    private static final String ALLOWED_URLS = "org.apache.kafka.sasl.oauthbearer.allowed.urls";
    private static final int ITERATIONS = 4096;
    private static final List<ScramMechanism> MECHANISMS =
            List.of(ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512);

    private final Admin admin;

    Access(Admin admin) {
        this.admin = admin;
    }

    /** Gives users a password for both SCRAM mechanisms and waits until the cluster knows them. */
    JsonNode setScramUsers(JsonNode args) throws Exception {
        for (ScramMechanism mechanism : MECHANISMS) {
            List<UserScramCredentialAlteration> wanted = new ArrayList<>(); // one request takes a user once
            for (JsonNode user : args.get("users")) {
                ScramCredentialInfo info = new ScramCredentialInfo(mechanism, ITERATIONS);
                String password = user.get("password").asText();
                wanted.add(new UserScramCredentialUpsertion(user.get("name").asText(), info, password));
            }
            admin.alterUserScramCredentials(wanted).all().get();
        }
        for (JsonNode user : args.get("users")) {
            String name = user.get("name").asText();
            Waits.until("the brokers know " + name, () -> {
                var described = admin.describeUserScramCredentials().all().get().get(name);
                return described != null && described.credentialInfos().size() == MECHANISMS.size();
            });
        }
        return Main.JSON.createObjectNode();
    }

    /** Adds an ACL. */
    JsonNode allow(JsonNode args) throws Exception {
        AclBinding binding = binding(args);
        admin.createAcls(List.of(binding)).all().get();
        Waits.until("there is " + binding, () -> !admin.describeAcls(binding.toFilter()).values().get().isEmpty());
        return Main.JSON.createObjectNode();
    }

    /** Takes an ACL away again. */
    JsonNode revoke(JsonNode args) throws Exception {
        AclBinding binding = binding(args);
        if (admin.deleteAcls(List.of(binding.toFilter())).all().get().isEmpty()) {
            throw new IllegalArgumentException("there is no " + binding);
        }
        Waits.until("there is no " + binding, () -> admin.describeAcls(binding.toFilter()).values().get().isEmpty());
        return Main.JSON.createObjectNode();
    }

    private static AclBinding binding(JsonNode args) {
        ResourcePattern pattern =
                new ResourcePattern(
                        ResourceType.fromString(args.get("type").asText()),
                        args.get("name").asText(),
                        PatternType.fromString(args.get("pattern").asText()));
        AclOperation operation = AclOperation.fromString(args.get("operation").asText());
        String principal = args.get("principal").asText();
        return new AclBinding(pattern, new AccessControlEntry(principal, "*", operation, AclPermissionType.ALLOW));
    }

    /** What a client with these settings gets to see: the topics. */
    JsonNode look(JsonNode args) throws Exception {
        Properties settings = new Properties();
        args.get("settings").fields().forEachRemaining(s -> settings.put(s.getKey(), s.getValue().asText()));
        settings.putIfAbsent("request.timeout.ms", "60000");
        settings.putIfAbsent("default.api.timeout.ms", "120000");
        String endpoint = settings.getProperty("sasl.oauthbearer.token.endpoint.url");
        if (endpoint != null) {
            allowUrl(endpoint);
        }
        ArrayNode out = Main.JSON.createArrayNode();
        try (Admin client = Admin.create(settings)) {
            new TreeSet<>(client.listTopics().names().get()).forEach(out::add);
        }
        return out;
    }

    /** Kafka's login module asks for this, and only a system property can say it. */
    private static synchronized void allowUrl(String url) {
        String known = System.getProperty(ALLOWED_URLS);
        System.setProperty(ALLOWED_URLS, known == null ? url : known + "," + url);
    }
}
