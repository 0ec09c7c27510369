//! Files as providers' documentation has them, and exactly what becomes of them.

use super::*;

#[track_caller]
fn becomes(text: &str, expected: &str) {
    let folder = folder();
    let settings = in_folder(&folder, text).unwrap_or_else(|e| panic!("{text}\n{e}"));
    let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n");
    assert_eq!(lines(&shown(&settings)), lines(expected.trim()), "{text}");
}

const PEM: &str = "[-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----]";
const KEY: &str = "[-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----]";
const SYSTEM: &str = "tls trust=system Full [] []\n";
const REFRESH: &str = "Refresh { window_factor: 0.8, buffer: 300s }";

#[test]
fn msk() {
    let none = "AwsIdentity { profile: None, role_arn: None, role_session_name: None, external_id: None, sts_region: None }";
    let iam = "security.protocol=SASL_SSL\nsasl.mechanism=AWS_MSK_IAM\n\
        sasl.client.callback.handler.class=software.amazon.msk.auth.iam.IAMClientCallbackHandler\n";
    becomes(
        &format!("{iam}sasl.jaas.config=software.amazon.msk.auth.iam.IAMLoginModule required;\n"),
        &format!("{SYSTEM}{none}"),
    );
    becomes(
        &format!(
            "{iam}sasl.jaas.config=software.amazon.msk.auth.iam.IAMLoginModule required awsRoleArn=\"arn:aws:iam::1:role/r\" awsRoleSessionName=\"s\" awsStsRegion=\"eu-west-1\" awsDebugCreds=true;\n"
        ),
        &format!(
            "{SYSTEM}{}\nnote sasl.jaas.config: options without meaning for bodley: awsDebugCreds",
            none.replace("role_arn: None", "role_arn: Some(\"arn:aws:iam::1:role/r\")")
                .replace("session_name: None", "session_name: Some(\"s\")")
                .replace("sts_region: None", "sts_region: Some(\"eu-west-1\")")
        ),
    );
    becomes(
        &format!(
            "{iam}sasl.jaas.config=software.amazon.msk.auth.iam.IAMLoginModule required awsProfileName=\"p\";\n"
        ),
        &format!("{SYSTEM}{}", none.replace("profile: None", "profile: Some(\"p\")")),
    );
    becomes(
        "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n\
         sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required awsProfileName=p;\n\
         sasl.login.callback.handler.class=software.amazon.msk.auth.iam.IAMOAuthBearerLoginCallbackHandler\n\
         sasl.client.callback.handler.class=org.apache.kafka.common.security.oauthbearer.internals.OAuthBearerSaslClientCallbackHandler\n",
        &format!("{SYSTEM}oauth AwsIam({}) {{}}", none.replace("profile: None", "profile: Some(\"p\")")),
    );
    becomes(
        "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nssl.truststore.location={dir}/trust.jks\n\
         sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \\\n  username=\"alice\" \\\n  password=\"alice-secret\";\n",
        "tls trust=store trust.jks[JKS] - Full [] []\nscram Sha512 alice alice-secret false",
    );
}

#[test]
fn confluent_cloud() {
    becomes(
        "# Required connection configs for Kafka producer, consumer, and admin\n\
         bootstrap.servers=SASL_SSL://pkc-1.eu-west-1.aws.confluent.cloud:9092\nsecurity.protocol=SASL_SSL\n\
         sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username='KEY' password='SECRET+/=';\n\
         sasl.mechanism=PLAIN\n# Required for correctness in Apache Kafka clients prior to 2.6\nclient.dns.lookup=use_all_dns_ips\n\
         session.timeout.ms=45000\nacks=all\nschema.registry.url=https://psrc.confluent.cloud\nbasic.auth.credentials.source=USER_INFO\n\
         basic.auth.user.info=A:B\nclient.id=ccloud\n",
        &format!(
            "bootstrap pkc-1.eu-west-1.aws.confluent.cloud:9092\n{:?}\n{SYSTEM}plain KEY SECRET+/=\n\
             note settings without meaning for bodley: acks, basic.auth.credentials.source, basic.auth.user.info, \
             client.dns.lookup, schema.registry.url, session.timeout.ms",
            ClientOptions { client_id: "ccloud".into(), ..ClientOptions::default() }
        ),
    );
    becomes(
        "bootstrap.servers=pkc:9092\nsecurity.protocol=SASL_SSL\nsasl.mechanisms=PLAIN\nsasl.username=KEY\nsasl.password=SECRET\n",
        &format!("bootstrap pkc:9092\n{SYSTEM}plain KEY SECRET"),
    );
    let oauth = |scope: &str| {
        format!(
            "{SYSTEM}oauth https://idp/token id from-env {scope} false trust=system (None, None) (100ms, 10s) \
             {REFRESH} {{\"identityPoolId\": \"pool-1\", \"logicalCluster\": \"lkc-1\"}}"
        )
    };
    becomes(
        "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n\
         sasl.login.callback.handler.class=org.apache.kafka.common.security.oauthbearer.secured.OAuthBearerLoginCallbackHandler\n\
         sasl.oauthbearer.token.endpoint.url=https://idp/token\n\
         sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \\\n\
         clientId='id' clientSecret='${env:SECRET}' scope='a b' extension_logicalCluster='lkc-1' extension_identityPoolId='pool-1';\n",
        &oauth("Some(\"a b\")"),
    );
    becomes(
        "security.protocol=sasl_ssl\nsasl.mechanisms=OAUTHBEARER\nsasl.oauthbearer.method=OIDC\nsasl.oauthbearer.client.id=id\n\
         sasl.oauthbearer.client.secret=${env:SECRET}\nsasl.oauthbearer.token.endpoint.url=https://idp/token\n\
         sasl.oauthbearer.extensions=logicalCluster=lkc-1,identityPoolId=pool-1\n",
        &oauth("None"),
    );
}

#[test]
fn event_hubs() {
    let connection = "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=abc=";
    let expected =
        format!("bootstrap ns.servicebus.windows.net:9093\n{SYSTEM}plain $ConnectionString {connection}");
    becomes(
        &format!(
            "bootstrap.servers=ns.servicebus.windows.net:9093\nsecurity.protocol=SASL_SSL\nsasl.mechanism=PLAIN\n\
             sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username=\"$ConnectionString\" password=\"{connection}\";\n"
        ),
        &expected,
    );
    becomes(
        &format!(
            "metadata.broker.list=ns.servicebus.windows.net:9093\nsecurity.protocol=SASL_SSL\nsasl.mechanisms=PLAIN\n\
             sasl.username=$ConnectionString\nsasl.password={connection}\n"
        ),
        &expected,
    );
}

#[test]
fn aiven() {
    becomes(
        "security.protocol=SSL\nssl.protocol=TLS\nssl.truststore.location={dir}/trust.jks\nssl.truststore.password=trust\n\
         ssl.truststore.type=JKS\nssl.keystore.type=PKCS12\nssl.keystore.location={dir}/key.p12\nssl.keystore.password=key\nssl.key.password=key\n",
        "tls trust=store trust.jks[JKS] trust Full [] []\nidentity store key.p12[KEY] key key",
    );
    becomes(
        "security.protocol=ssl\nssl.key.location={dir}/service.key\nssl.certificate.location={dir}/service.cert\nssl.ca.location={dir}/ca.pem\n",
        &format!("tls trust=pem ca.pem{PEM} Full [] []\nidentity pem service.cert{PEM} service.key{KEY} -"),
    );
}

#[test]
fn strimzi() {
    becomes(
        "bootstrap.servers=my-cluster-kafka-bootstrap:9093\nsecurity.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\n\
         sasl.jaas.config=${dir:{dir}:sasl.jaas.config}\nssl.truststore.location={dir}/trust.p12\nssl.truststore.password=${env:SECRET}\n\
         ssl.truststore.type=PKCS12\n"
            .replace("${dir:{dir}:sasl.jaas.config}", "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"my-user\" password=\"p\";")
            .as_str(),
        "bootstrap my-cluster-kafka-bootstrap:9093\ntls trust=store trust.p12[P12] from-env Full [] []\nscram Sha512 my-user p false",
    );
    becomes(
        "security.protocol=SSL\nconfig.providers=secrets\n\
         config.providers.secrets.class=org.apache.kafka.common.config.provider.DirectoryConfigProvider\n\
         ssl.truststore.type=PEM\nssl.truststore.certificates=${secrets:{dir}:ca.pem}\n\
         ssl.keystore.type=PEM\nssl.keystore.certificate.chain=${secrets:{dir}:service.cert}\nssl.keystore.key=${secrets:{dir}:service.key}\n",
        &format!(
            "tls trust=pem ssl.truststore.certificates{PEM} Full [] []\n\
             identity pem ssl.keystore.certificate.chain{PEM} ssl.keystore.key{KEY} -"
        ),
    );
}

#[test]
fn redpanda() {
    let expected = "bootstrap rp:9092\ntls trust=system Full [] []\nscram Sha256 u p false";
    becomes(
        "bootstrap.servers=rp:9092\nsecurity.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-256\n\
         sasl.jaas.config=kafkashaded.org.apache.kafka.common.security.scram.ScramLoginModule required username=u password=p;\n",
        expected,
    );
    becomes(
        "bootstrap.servers=rp:9092\nsecurity.protocol=sasl_ssl\nsasl.mechanism=SCRAM-SHA-256\nsasl.username=u\nsasl.password=p\n",
        expected,
    );
    becomes(
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=u\nsasl.password=p\n",
        "plain u p\nnote PLAIN without TLS (security.protocol=SASL_PLAINTEXT): anybody on the way can read the password",
    );
}

#[test]
fn token_files() {
    becomes(
        "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.token.endpoint.url=file:///var/run/token\n\
         sasl.oauthbearer.jwt.retriever.class=org.apache.kafka.common.security.oauthbearer.FileJwtRetriever\n\
         sasl.login.connect.timeout.ms=1000\nsasl.login.refresh.buffer.seconds=10\n",
        &format!(
            "{SYSTEM}oauth TokenFile(\"/var/run/token\") {{}}\n\
             note not used with this security.protocol and sasl.mechanism: sasl.login.connect.timeout.ms, sasl.login.refresh.buffer.seconds"
        ),
    );
}
