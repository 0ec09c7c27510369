//! The clusters, and what stands around them.

use std::sync::{OnceLock, RwLock, RwLockReadGuard};
use std::time::Duration;

use bodley_testbed::workbench::{Codec, GroupOffset, ProduceOptions, Record};
use bodley_testbed::{AwsEndpoints, Cluster, ClusterOptions, Door, Iam, Login, Oidc};

use crate::common::site::Site;

use super::client::Client;

/// Measuring needs the machine for itself.
pub static MACHINE: RwLock<()> = RwLock::new(());

/// Others may be at work as well.
pub fn together() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The topic that is taken there and back.
pub const TOPIC: &str = "seen";
/// Records of it.
pub const RECORDS: usize = 90;
/// Who reads it.
pub const GROUP: &str = "reader";
/// How far.
pub const POSITIONS: [i64; 2] = [7, 30];
/// How long sessions last where they end.
pub const SESSION: Duration = Duration::from_secs(5);

/// A cluster with all that may judge its clients.
pub struct Place {
    /// The cluster and Apache's client.
    pub site: Site,
    /// Whose tokens it takes.
    pub oidc: Oidc,
    /// Who judges at [`Door::Iam`].
    pub iam: Iam,
    /// Where AWS's credentials come from.
    pub aws: AwsEndpoints,
}

impl Place {
    fn start(options: impl FnOnce(ClusterOptions) -> ClusterOptions) -> Self {
        let (oidc, iam) = (Oidc::start().unwrap(), Iam::new());
        let aws = AwsEndpoints::start(&iam).unwrap();
        let options = options(ClusterOptions::new().oidc(&oidc).iam(&iam));
        let cluster = Box::leak(Box::new(Cluster::start(options).unwrap()));
        Self { site: Site::at(cluster), oidc, iam, aws }
    }

    /// Someone who comes by a door.
    pub fn client(&self, door: Door, login: &Login) -> Client {
        Client::new(self.site.cluster, door, login)
    }
}

/// With a small topic and a group; sessions last as long as connections.
pub fn home() -> &'static Place {
    static HOME: OnceLock<Place> = OnceLock::new();
    HOME.get_or_init(|| {
        let place = Place::start(ClusterOptions::secured);
        let site = &place.site;
        site.bench.create_topic(TOPIC, 2, &[("retention.ms", "-1")]).unwrap();
        for (partition, codec) in [(0, Codec::None), (1, Codec::Lz4)] {
            let record = |n| {
                let record = Record::new(partition).key(format!("key-{n}")).value(format!("value {n}"));
                if n % 7 == 0 { record.header("h", Some(b"1")) } else { record }
            };
            let records: Vec<Record> = (0..RECORDS / 2).map(record).collect();
            site.bench.produce(TOPIC, &records, &ProduceOptions::codec(codec).flush_every(10)).unwrap();
        }
        site.bench.commit_offsets(GROUP, &positions(TOPIC)).unwrap();
        place
    })
}

/// Where the group stands in a topic.
pub fn positions(topic: &str) -> Vec<GroupOffset> {
    (0..).zip(POSITIONS).map(|(partition, offset)| GroupOffset::new(topic, partition, offset)).collect()
}

/// Behind proxies, with sessions that end soon, and servers that are quick rather than soon there.
pub fn away() -> &'static Place {
    static AWAY: OnceLock<Place> = OnceLock::new();
    AWAY.get_or_init(|| {
        let doors = [Door::Ssl, Door::SaslSsl, Door::SaslPlaintext];
        let place = Place::start(|options| {
            let options = options.proxied().reauth(SESSION).jvm("-XX:TieredStopAtLevel=4");
            doors.into_iter().fold(options, ClusterOptions::proxied_door)
        });
        place.iam.set_session_lifetime(Some(SESSION));
        place
    })
}
