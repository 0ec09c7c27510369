use crate::client::tests::{folder, in_folder, shown};

fn tls(text: &str) -> Result<String, String> {
    let folder = folder();
    let settings = in_folder(&folder, &format!("security.protocol=SSL\n{text}"));
    settings.map(|settings| shown(&settings)).map_err(|e| e.to_string())
}

#[test]
fn trust_and_identity_are_told_apart() {
    for (text, expected) in [
        ("", "trust=system Full [] []"),
        ("ssl.ca.location=probe", "trust=system Full"),
        ("ssl.ca.location={dir}/ca.pem", "trust=pem ca.pem[-----BEGIN CERTIFICATE-----"),
        ("ssl.ca.location={dir}/cas", "trust=pem cas[-----BEGIN CERTIFICATE-----"),
        ("ssl.truststore.location={dir}/ca.pem", "trust=pem ca.pem["),
        ("ssl.truststore.type=pem\nssl.truststore.location={dir}/ca.pem", "trust=pem ca.pem["),
        ("ssl.truststore.location={dir}/trust.jks", "trust=store trust.jks[JKS] - Full"),
        (
            "ssl.truststore.location={dir}/trust.p12\nssl.truststore.password=",
            "trust=store trust.p12[P12]  Full",
        ),
        ("ssl.keystore.location={dir}/both.pem", "identity pem both.pem["),
        ("ssl.keystore.location={dir}/both.pem\nssl.key.password=k", "-----] k"),
        (
            "ssl.keystore.location={dir}/key.p12\nssl.keystore.password=s\nssl.key.password=k\nssl.keystore.type=PKCS12",
            "identity store key.p12[KEY] s k",
        ),
        ("ssl.endpoint.identification.algorithm=none", "NotTheHostName"),
        ("ssl.endpoint.identification.algorithm=", "NotTheHostName"),
        ("ssl.endpoint.identification.algorithm=HTTPS", "Full"),
        ("enable.ssl.certificate.verification=false", "whoever answers is taken for the broker"),
        ("ssl.protocol=TLSv1.2\nssl.enabled.protocols=TLSv1.2,TLSv1.3", "Full [V1_2] []"),
        ("ssl.protocol=TLS\nssl.enabled.protocols=TLSv1.3, TLSv1.2", "Full [V1_3, V1_2] []"),
        ("ssl.enabled.protocols=TLSv1.2,TLSv1.1,TLSv1", "Full [V1_2] []\nnote ssl.enabled.protocols: only"),
        (
            "ssl.cipher.suites=ECDHE-RSA-AES128-GCM-SHA256:TLS_AES_256_GCM_SHA384:AES128-SHA",
            "[\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\", \"TLS_AES_256_GCM_SHA384\"]\nnote ssl.cipher.suites: some",
        ),
    ] {
        let found = tls(text).unwrap();
        assert!(found.contains(expected), "{text}: {found}");
    }
}

#[test]
fn what_is_wrong() {
    for (text, says) in [
        ("ssl.ca.location=/no/such", ":2: ssl.ca.location: /no/such can't be read: No such file"),
        ("ssl.truststore.location=/no/such", "/no/such can't be read"),
        ("ssl.keystore.location={dir}", "can't be read"),
        (
            "ssl.ca.location={dir}/ca.pem\nssl.truststore.location={dir}/trust.jks",
            "says the same in another way",
        ),
        ("ssl.ca.location={dir}/ca.pem\nssl.ca.pem=x", "says the same in another way"),
        (
            "ssl.truststore.location={dir}/ca.pem\nssl.truststore.type=PEM\nssl.truststore.password=x",
            "PEM has no password",
        ),
        (
            "ssl.truststore.type=BCFKS\nssl.truststore.location={dir}/trust.jks",
            "write one of JKS, PKCS12, PEM",
        ),
        ("ssl.truststore.type=JKS\nssl.truststore.certificates=x", "set ssl.truststore.type=PEM"),
        ("ssl.keystore.location={dir}/key.p12", "set ssl.keystore.password"),
        (
            "ssl.keystore.location={dir}/both.pem\nssl.keystore.type=PEM\nssl.keystore.password=x",
            "ssl.key.password",
        ),
        ("ssl.certificate.location={dir}/service.cert", "its key is missing"),
        ("ssl.key.location={dir}/service.key", "its certificate is missing"),
        ("ssl.certificate.location={dir}/service.cert\nssl.key.pem=x", "this is no PEM"),
        (
            "ssl.keystore.location={dir}/key.p12\nssl.key.location={dir}/service.key",
            "says the same in another way",
        ),
        ("ssl.endpoint.identification.algorithm=ldap", "write one of https, none"),
        ("ssl.protocol=SSLv3", "write one of TLS, TLSv1.3, TLSv1.2"),
        ("ssl.enabled.protocols=TLSv1.1", "no version of TLS is left"),
        ("ssl.enabled.protocols=TLSv1.3\nssl.protocol=TLSv1.2", "no version of TLS is left"),
        ("ssl.enabled.protocols=TLSv9", "write some of TLSv1.2, TLSv1.3"),
        ("ssl.cipher.suites=AES128-SHA", "no suite that is supported is left"),
    ] {
        let found = tls(text).unwrap_err();
        assert!(found.contains(says), "{text}: {found}");
    }
}

#[test]
fn a_folder_without_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("security.protocol=SSL\nssl.ca.location={}", folder.path().display());
    let error = crate::client::tests::of(&text).unwrap_err();
    assert!(error.what.contains("holds no certificates in PEM"), "{error}");
}
