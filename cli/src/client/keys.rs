//! Which keys there are, in the spelling of Kafka's Java client and of librdkafka.
//!
//! Sources: ConsumerConfig, ProducerConfig and AdminClientConfig of kafka-clients 4.2, librdkafka 2.9 CONFIGURATION.md.

/// What a key is to us.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning {
    /// It changes what we do; this is the name it has here.
    Honoured(&'static str),
    /// Of a client, but about nothing that we do.
    Nothing,
    /// To leave it out would weaken or change security: these values do no harm, for others there is this to say.
    Refused(&'static [&'static str], &'static str),
    /// It declares a provider for references.
    Provider,
    /// In no table.
    Unknown,
}

/// Keys that change what we do. Each row: the name it has here, then other spellings.
pub const HONOURED: &[&[&str]] = &[
    // Where to
    &["bootstrap.servers", "metadata.broker.list"],
    &["client.id"],
    &["client.rack"],
    &["security.protocol"],
    // Network
    &["request.timeout.ms", "socket.timeout.ms"],
    &["socket.connection.setup.timeout.ms"],
    &["socket.connection.setup.timeout.max.ms"],
    &["reconnect.backoff.ms"],
    &["reconnect.backoff.max.ms"],
    &["retry.backoff.ms"],
    &["retry.backoff.max.ms"],
    &["metadata.recovery.strategy"],
    &["send.buffer.bytes", "socket.send.buffer.bytes"],
    &["receive.buffer.bytes", "socket.receive.buffer.bytes"],
    // TLS: whom we trust
    &["ssl.truststore.location"],
    &["ssl.truststore.password"],
    &["ssl.truststore.type"],
    &["ssl.truststore.certificates", "ssl.ca.pem"],
    &["ssl.ca.location"],
    &["enable.ssl.certificate.verification"],
    &["ssl.endpoint.identification.algorithm"],
    // TLS: who we are
    &["ssl.keystore.location"],
    &["ssl.keystore.password"],
    &["ssl.keystore.type"],
    &["ssl.keystore.key", "ssl.key.pem"],
    &["ssl.keystore.certificate.chain", "ssl.certificate.pem"],
    &["ssl.certificate.location"],
    &["ssl.key.location"],
    &["ssl.key.password"],
    // TLS: how
    &["ssl.protocol"],
    &["ssl.enabled.protocols"],
    &["ssl.cipher.suites"],
    // SASL
    &["sasl.mechanism", "sasl.mechanisms"],
    &["sasl.jaas.config"],
    &["sasl.username"],
    &["sasl.password"],
    &["sasl.login.callback.handler.class"],
    &["sasl.client.callback.handler.class"],
    // SASL: tokens
    &["sasl.oauthbearer.method"],
    &["sasl.oauthbearer.token.endpoint.url"],
    &["sasl.oauthbearer.client.credentials.client.id", "sasl.oauthbearer.client.id"],
    &["sasl.oauthbearer.client.credentials.client.secret", "sasl.oauthbearer.client.secret"],
    &["sasl.oauthbearer.scope"],
    &["sasl.oauthbearer.extensions"],
    &["sasl.oauthbearer.header.urlencode"],
    &["sasl.oauthbearer.jwt.retriever.class"],
    &["https.ca.location"],
    &["https.ca.pem"],
    &["sasl.login.connect.timeout.ms"],
    &["sasl.login.read.timeout.ms"],
    &["sasl.login.retry.backoff.ms"],
    &["sasl.login.retry.backoff.max.ms"],
    &["sasl.login.refresh.window.factor"],
    &["sasl.login.refresh.buffer.seconds"],
];

/// Keys whose values nobody may see.
pub const SECRETS: &[&str] = &[
    "sasl.jaas.config",
    "sasl.password",
    "sasl.oauthbearer.client.credentials.client.secret",
    "ssl.key.password",
    "ssl.keystore.key",
    "ssl.keystore.password",
    "ssl.truststore.password",
];

/// Keys that change security in ways that we do not have, with the values that do no harm.
const REFUSED: &[(&str, &[&str], &str)] = &[
    ("enable.sasl.oauthbearer.unsecure.jwt", &["false"], "unsecured tokens are for tests of other clients"),
    ("sasl.login.class", &[], "there are no login classes; set sasl.mechanism"),
    (
        "sasl.oauthbearer.config",
        &[],
        "it belongs to a callback; set sasl.oauthbearer.method=oidc and its keys",
    ),
    ("sasl.oauthbearer.grant.type", &["client_credentials"], "only client_credentials is"),
    (
        "sasl.oauthbearer.metadata.authentication.type",
        &["none"],
        "set a client id and secret, or a token file",
    ),
    ("security.providers", &[], "there are no Java security providers"),
    ("ssl.ca.certificate.stores", &["Root"], "export the certificates and set ssl.ca.location"),
    ("ssl.crl.location", &[], "revocation lists are not checked"),
    ("ssl.curves.list", &[], "curves can't be chosen"),
    ("ssl.engine.factory.class", &[], "there are no Java classes; set ssl.truststore.* and ssl.keystore.*"),
    ("ssl.engine.id", &[], "keys come from files only"),
    ("ssl.engine.location", &[], "keys come from files only"),
    ("ssl.keymanager.algorithm", &["SunX509", "NewSunX509", "PKIX"], "there are no Java classes"),
    ("ssl.provider", &[], "there are no Java security providers"),
    ("ssl.providers", &["default"], "keys come from files only"),
    ("ssl.sigalgs.list", &[], "signature algorithms can't be chosen"),
    ("ssl.trustmanager.algorithm", &["PKIX", "SunX509"], "there are no Java classes"),
];

/// Keys of consumers, producers, admin clients and librdkafka that are about nothing we do.
const NO_MEANING: &str = "
acks allow.auto.create.topics api.version.fallback.ms api.version.request api.version.request.timeout.ms
auto.commit.enable auto.commit.interval.ms auto.include.jmx.reporter auto.offset.reset auto.register.schemas
background_event_cb basic.auth.credentials.source basic.auth.user.info batch.num.messages batch.size
block.on.buffer.full bootstrap.controllers broker.address.family broker.address.ttl broker.version.fallback
buffer.memory builtin.features check.crcs client.dns.lookup closesocket_cb compression.codec compression.gzip.level
compression.level compression.lz4.level compression.type compression.zstd.level connect_cb connections.max.idle.ms
consume.callback.max.messages consume_cb coordinator.query.interval.ms debug default.api.timeout.ms default_topic_conf
delivery.report.only.error delivery.timeout.ms dr_cb dr_msg_cb enable.auto.commit enable.auto.offset.store
enable.gapless.guarantee enable.idempotence enable.metrics.push enable.partition.eof enable.random.seed enabled_events
error_cb exclude.internal.topics fetch.error.backoff.ms fetch.max.bytes fetch.max.wait.ms fetch.message.max.bytes
fetch.min.bytes fetch.queue.backoff.ms fetch.wait.max.ms group.id group.instance.id group.protocol group.protocol.type
group.remote.assignor heartbeat.interval.ms interceptor.classes interceptors internal.termination.signal
isolation.level key.converter key.deserializer key.serializer linger.ms log.connection.close log.queue log.thread.name
log_cb log_level max.block.ms max.in.flight max.in.flight.requests.per.connection max.partition.fetch.bytes
max.poll.interval.ms max.poll.records max.request.size message.copy.max.bytes message.max.bytes
message.send.max.retries message.timeout.ms metadata.fetch.timeout.ms metadata.max.age.ms metadata.max.idle.ms
metadata.recovery.rebootstrap.trigger.ms metric.reporters metrics.num.samples metrics.recording.level
metrics.sample.window.ms msg_order_cmp oauthbearer_token_refresh_cb offset.store.method offset.store.path
offset.store.sync.interval.ms offset_commit_cb opaque open_cb partition.assignment.strategy partitioner
partitioner.adaptive.partitioning.enable partitioner.availability.timeout.ms partitioner.class partitioner.ignore.keys
partitioner_cb plugin.library.paths produce.offset.report queue.buffering.backpressure.threshold
queue.buffering.max.kbytes queue.buffering.max.messages queue.buffering.max.ms queued.max.messages.kbytes
queued.min.messages queuing.strategy rebalance_cb receive.message.max.bytes reconnect.backoff.jitter.ms
request.required.acks resolve_cb retries sasl.kerberos.keytab sasl.kerberos.kinit.cmd
sasl.kerberos.min.time.before.relogin sasl.kerberos.principal sasl.kerberos.principal.to.local.rules
sasl.kerberos.service.name sasl.kerberos.ticket.renew.jitter sasl.kerberos.ticket.renew.window.factor
sasl.login.refresh.min.period.seconds sasl.login.refresh.window.jitter sasl.oauthbearer.clock.skew.seconds
sasl.oauthbearer.expected.audience sasl.oauthbearer.expected.issuer sasl.oauthbearer.jwks.endpoint.refresh.ms
sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms sasl.oauthbearer.jwks.endpoint.retry.backoff.ms
sasl.oauthbearer.jwks.endpoint.url sasl.oauthbearer.jwt.validator.class sasl.oauthbearer.scope.claim.name
sasl.oauthbearer.sub.claim.name sasl.server.callback.handler.class schema.registry.url session.timeout.ms
share.acknowledgement.mode share.acquire.mode socket.blocking.max.ms socket.keepalive.enable socket.max.fails
socket.nagle.disable socket_cb ssl.client.auth ssl.secure.random.implementation
statistics.interval.ms stats_cb sticky.partitioning.linger.ms
throttle_cb timeout.ms topic.blacklist topic.metadata.propagation.max.ms topic.metadata.refresh.fast.cnt
topic.metadata.refresh.fast.interval.ms topic.metadata.refresh.interval.ms topic.metadata.refresh.sparse
transaction.timeout.ms transaction.two.phase.commit.enable transactional.id use.latest.version value.converter
value.deserializer value.serializer zookeeper.connect";

/// What `key` is to us.
pub fn meaning(key: &str) -> Meaning {
    if let Some(row) = HONOURED.iter().find(|row| row.contains(&key)) {
        return row.first().map_or(Meaning::Unknown, |name| Meaning::Honoured(name));
    }
    if let Some((_, harmless, why)) = REFUSED.iter().find(|(name, ..)| *name == key) {
        return Meaning::Refused(harmless, why);
    }
    if key.starts_with("sasl.oauthbearer.assertion.") {
        return Meaning::Refused(&[], "no assertions are made; set a client id and secret, or a token file");
    }
    if key == "config.providers" || key.starts_with("config.providers.") {
        return Meaning::Provider;
    }
    let ours_to_skip =
        key.starts_with("schema.registry.") || NO_MEANING.split_whitespace().any(|name| name == key);
    if ours_to_skip { Meaning::Nothing } else { Meaning::Unknown }
}

/// The key that was probably meant.
pub fn nearest(key: &str) -> Option<&'static str> {
    let honoured = HONOURED.iter().flat_map(|row| row.iter().copied());
    let known = honoured.chain(REFUSED.iter().map(|(name, ..)| *name)).chain(NO_MEANING.split_whitespace());
    nearest_of(key, known)
}

/// The one of `known` that a typing error could have made `word` of.
pub fn nearest_of<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase().replace('_', if word.contains('.') { "_" } else { "." });
    let distance =
        |name: &str| strsim::damerau_levenshtein(name, &lower).min(strsim::damerau_levenshtein(name, word));
    let best = known.map(|name| (distance(name), name)).min()?;
    (best.0 <= 1 + word.len() / 8).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_stands_in_one_table() {
        let mut all: Vec<&str> = HONOURED.iter().flat_map(|row| row.iter().copied()).collect();
        assert!(SECRETS.iter().all(|key| HONOURED.iter().any(|row| row[0] == *key)));
        all.extend(REFUSED.iter().map(|(name, ..)| *name));
        all.extend(NO_MEANING.split_whitespace());
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(count > 250, "{count}");
    }

    #[test]
    fn meanings() {
        assert_eq!(meaning("sasl.mechanisms"), Meaning::Honoured("sasl.mechanism"));
        assert_eq!(meaning("group.id"), Meaning::Nothing);
        assert!(matches!(meaning("ssl.crl.location"), Meaning::Refused(..)));
        assert!(matches!(meaning("sasl.oauthbearer.assertion.file"), Meaning::Refused(..)));
        assert_eq!(meaning("config.providers.x.class"), Meaning::Provider);
        assert_eq!(meaning("config.provider"), Meaning::Unknown);
    }

    #[test]
    fn typing_errors() {
        assert_eq!(nearest("sasl.mecanism"), Some("sasl.mechanism"));
        assert_eq!(nearest("security_protocol"), Some("security.protocol"));
        assert_eq!(nearest("ssl.trustore.location"), Some("ssl.truststore.location"));
        assert_eq!(nearest("Bootstrap.Servers"), Some("bootstrap.servers"));
        assert_eq!(nearest("my.own.thing"), None);
    }
}
