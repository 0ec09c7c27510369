//! What rustls has to say, in words that help.

use std::io;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// What is wrong with TLS, if it is TLS that is wrong, and whether another connection may fare better.
pub(in crate::kafka) fn tls_complaint(error: &io::Error) -> Option<(String, bool)> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some((complaint(error), is_passing(error)))
}

/// Bytes that were changed on their way, and a broker that ends.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::AlertReceived(alert) => matches!(
            alert,
            AlertDescription::CloseNotify
                | AlertDescription::UserCanceled
                | AlertDescription::InternalError
                | AlertDescription::BadRecordMac
                | AlertDescription::DecryptError
                | AlertDescription::UnexpectedMessage
        ),
        Error::DecryptError | Error::PeerMisbehaved(_) | Error::PeerSentOversizedRecord => true,
        _ => false,
    }
}

fn complaint(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::AlertReceived(alert) => received(*alert),
        Error::InvalidMessage(_) => {
            "it answers, but not in TLS: is this a plaintext listener? Then security.protocol is PLAINTEXT or SASL_PLAINTEXT".into()
        }
        Error::PeerIncompatible(why) => incompatible(why),
        other => other.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => "its certificate has expired".into(),
        CertificateError::ExpiredContext { time, not_after } => {
            let ago = time.as_secs().saturating_sub(not_after.as_secs());
            format!("its certificate expired {} ago, by this machine's clock; the broker needs a new one", span(ago))
        }
        CertificateError::NotValidYet => "its certificate is not valid yet: is this machine's clock right?".into(),
        CertificateError::NotValidYetContext { time, not_before } => {
            let left = not_before.as_secs().saturating_sub(time.as_secs());
            format!("its certificate becomes valid in {}: is this machine's clock right?", span(left))
        }
        CertificateError::NotValidForName => "its certificate is not for this host name".into(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let ServerName::DnsName(expected) = expected else { return wrong_name("this address", presented) };
            wrong_name(expected.as_ref(), presented)
        }
        CertificateError::UnknownIssuer => {
            "its certificate comes from an authority that is not trusted here: give the authority's certificate (ssl.truststore.location, or ssl.ca.location)".into()
        }
        CertificateError::Revoked => "its certificate has been revoked".into(),
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is marked as that of an authority, not of a server: the broker needs one of its own".into()
        }
        other => format!("its certificate is no good: {other}"),
    }
}

fn wrong_name(expected: &str, presented: &[String]) -> String {
    // rustls shows them as `DnsName("…")`.
    let bare = |name: &'_ String| name.split('"').nth(1).unwrap_or(name).to_owned();
    let mut names: Vec<String> = presented.iter().take(5).map(bare).collect();
    if presented.len() > names.len() {
        names.push("…".into());
    }
    let names = if names.is_empty() { "no name at all".into() } else { names.join(", ") };
    format!(
        "its certificate is for {names}, not for {expected}: connect by a name that it has (ssl.endpoint.identification.algorithm= turns the check off)"
    )
}

fn received(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA => format!(
            "it wants a client certificate that it trusts, and does not get one (alert {alert:?}): see ssl.keystore.location"
        ),
        AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion => format!(
            "no version and cipher suite in common, or a client certificate is missing (alert {alert:?}): see ssl.enabled.protocols, ssl.cipher.suites, ssl.keystore.location"
        ),
        other => format!("it ends the connection with alert {other:?}"),
    }
}

fn incompatible(why: &PeerIncompatible) -> String {
    format!(
        "no version and cipher suite in common ({why:?}): bodley speaks TLS 1.2 and 1.3; see ssl.enabled.protocols and ssl.cipher.suites"
    )
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
