//! The listeners that a secured cluster has for its clients, beside the plain ones.

use anyhow::Result;

use crate::pki::Leaf;
use crate::ports;

/// A listener of a secured cluster. All of them are open at once, at `localhost`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// TLS; whoever comes is anonymous.
    Ssl,
    /// TLS that asks for a certificate, whose common name is the user.
    Mtls,
    /// SASL in clear text: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER.
    SaslPlaintext,
    /// The same mechanisms over TLS.
    SaslSsl,
    /// TLS with a server certificate that is out of date.
    ExpiredCert,
    /// TLS with a server certificate for another host.
    WrongHost,
    /// TLS with a server certificate of an unknown authority.
    UnknownCa,
    /// TLS, and SASL with AWS_MSK_IAM: a stand-in for Amazon MSK, on clusters that have an [`Iam`](crate::Iam).
    Iam,
}

impl Door {
    /// Those that every secured cluster has: all but [`Door::Iam`].
    pub const ALL: [Self; 7] = [
        Self::Ssl,
        Self::Mtls,
        Self::SaslPlaintext,
        Self::SaslSsl,
        Self::ExpiredCert,
        Self::WrongHost,
        Self::UnknownCa,
    ];

    /// The value of `security.protocol` for its clients.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl | Self::Iam => "SASL_SSL",
            _ => "SSL",
        }
    }

    /// The security protocol of the node's own listener.
    pub(crate) fn node_protocol(self) -> &'static str {
        match self {
            Self::Iam => "PLAINTEXT",
            _ => self.protocol(),
        }
    }

    /// Whether the nodes let clients log in by SASL.
    pub fn is_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }

    /// The name of the listener in the servers' configuration.
    pub fn listener(self) -> &'static str {
        match self {
            Self::Ssl => "TLS",
            Self::Mtls => "MTLS",
            Self::SaslPlaintext => "SASLPLAIN",
            Self::SaslSsl => "SASLTLS",
            Self::ExpiredCert => "EXPIRED",
            Self::WrongHost => "WRONGHOST",
            Self::UnknownCa => "UNKNOWNCA",
            Self::Iam => "IAM",
        }
    }

    /// The certificate that it shows; none where there is no TLS.
    pub fn leaf(self) -> Option<Leaf> {
        match self {
            Self::SaslPlaintext => None,
            Self::Ssl | Self::Mtls | Self::SaslSsl | Self::Iam => Some(Leaf::Server),
            Self::ExpiredCert => Some(Leaf::Expired),
            Self::WrongHost => Some(Leaf::WrongHost),
            Self::UnknownCa => Some(Leaf::UnknownCa),
        }
    }
}

/// Where a node has a door.
#[derive(Debug, Clone, Copy)]
pub struct DoorPort {
    /// Which one it is.
    pub door: Door,
    /// Where the node listens.
    pub port: u16,
    /// What clients are told: the same port, or that of a proxy or a stand-in in front of it.
    pub advertised: u16,
}

impl DoorPort {
    pub(crate) fn free(door: Door, proxied: bool) -> Result<Self> {
        let port = ports::free_port()?;
        Ok(Self { door, port, advertised: if proxied { ports::free_port()? } else { port } })
    }
}
