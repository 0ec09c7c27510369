//! The way to each broker: its name, TCP, TLS, Kafka's first answer, SASL.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bodley_io::kafka::security::TlsFacts;
use bodley_io::kafka::stream::resolve;
use bodley_io::kafka::{Address, ClientOptions, Cluster, Connection, KafkaError, Layout};

use super::Check;
use crate::report::counted;

/// A certificate that ends so soon is worth a word.
const SOON: Duration = Duration::from_secs(30 * 86_400);
/// An answer that takes so long makes small requests slow.
const FAR: Duration = Duration::from_millis(200);
/// Brokers that are named.
const NAMED: usize = 5;
/// Brokers that are looked at one by one.
const BROKERS: usize = 200;

/// Goes to one address step by step; whether it got to the end.
pub async fn knock(address: &Address, options: &Arc<ClientOptions>, checks: &mut Vec<Check>) -> bool {
    let subject = address.to_string();
    match tokio::time::timeout(options.connect_timeout, resolve(address)).await {
        Ok(Ok(found)) => {
            let found: Vec<String> = found.iter().map(|one| one.ip().to_string()).collect();
            checks.push(Check::ok("names", &subject, found.join(", ")));
        }
        failed => {
            let what = match failed {
                Ok(Err(error)) => error.to_string(),
                _ => format!("no answer within {} s", options.connect_timeout.as_secs()),
            };
            let hint = "check the spelling, /etc/hosts and the resolver; brokers advertise names (advertised.listeners) that this machine must know, too";
            checks.push(Check::wrong("names", &subject, what).hint(hint));
            return false;
        }
    }
    let began = Instant::now();
    let mut connection = match Connection::greet(address, options).await {
        Ok(connection) => connection,
        Err(error) => {
            checks.push(failure(&subject, &error));
            return false;
        }
    };
    let took = began.elapsed();
    checks.push(Check::ok("tcp", &subject, "a connection is accepted"));
    if let Some(facts) = connection.tls() {
        checks.push(certificate(&subject, &facts));
    }
    let what = format!("first answer after {} ms", took.as_millis());
    checks.push(match took > FAR {
        true => Check::note("kafka", &subject, what).hint("the broker is far away or busy"),
        false => Check::ok("kafka", &subject, what),
    });
    let Some(sasl) = &options.sasl else { return true };
    match connection.log_in().await {
        Ok(None) => checks.push(Check::ok("sasl", &subject, format!("{} lets us in", sasl.mechanism()))),
        Ok(Some(session)) => {
            let what = format!(
                "{} lets us in; the session is renewed after {} s",
                sasl.mechanism(),
                session.as_secs()
            );
            checks.push(Check::ok("sasl", &subject, what));
        }
        Err(error) => {
            checks.push(failure(&subject, &error));
            return false;
        }
    }
    true
}

fn failure(subject: &str, error: &KafkaError) -> Check {
    let (area, hint) = match error {
        KafkaError::Connect { .. } => ("tcp", "does a broker listen there? check host, port and firewall"),
        KafkaError::Timeout { what, .. } if what.contains("connection") => (
            "tcp",
            "a firewall or security group drops packets to this port, or the address is of another network",
        ),
        // These say it themselves.
        KafkaError::Tls { .. } => return Check::wrong("tls", subject, error.to_string()),
        KafkaError::Auth { .. } | KafkaError::Token { .. } => {
            return Check::wrong("sasl", subject, error.to_string());
        }
        KafkaError::Mismatch { .. } => {
            ("kafka", "check security.protocol, and that the port is a listener for clients")
        }
        _ => ("kafka", "check the broker's log"),
    };
    Check::wrong(area, subject, error.to_string()).hint(hint)
}

fn certificate(subject: &str, facts: &TlsFacts) -> Check {
    let left = facts.expires.map(|expires| expires.duration_since(SystemTime::now()).unwrap_or_default());
    let days = left.map(|left| format!(", for {} more days", left.as_secs() / 86_400)).unwrap_or_default();
    let TlsFacts { version, cipher, subject: name, issuer, .. } = facts;
    let what = format!("{version}, {cipher}; certificate {name} by {issuer}{days}");
    match left {
        Some(left) if left < SOON => {
            Check::note("tls", subject, what).hint("the broker's certificate is to be renewed soon")
        }
        _ => Check::ok("tls", subject, what),
    }
}

/// Every broker that the cluster names must be reachable under the name that it tells.
pub async fn brokers(
    cluster: &Cluster,
    bootstrap: &[Address],
    options: &Arc<ClientOptions>,
    checks: &mut Vec<Check>,
) {
    let layout = cluster.layout();
    let known: BTreeSet<String> = bootstrap.iter().map(ToString::to_string).collect();
    let mut good = 0;
    for (id, address) in layout.brokers.iter().take(BROKERS) {
        if known.contains(&address.to_string()) {
            continue;
        }
        let mut steps = Vec::new();
        if knock(address, options, &mut steps).await {
            good += 1;
            continue;
        }
        checks.extend(steps.into_iter().filter(|step| step.verdict != super::Verdict::Ok).map(|step| {
            Check {
                subject: format!("broker {id} at {}", step.subject),
                hint: step.hint.map(|hint| {
                    format!("{hint}; the address is what the broker advertises to this listener")
                }),
                ..step
            }
        }));
    }
    let others =
        if good > 0 { format!(", {good} of them beside those given, all reached") } else { String::new() };
    let name = layout.cluster_id.clone().unwrap_or_else(|| "(no id)".into());
    checks.push(Check::ok(
        "kafka",
        format!("cluster {name}"),
        format!("{} broker(s){others}", layout.brokers.len()),
    ));
    checks.extend(leaderless(&layout));
}

/// Partitions that nobody can read or write now, and the brokers that are missed.
fn leaderless(layout: &Layout) -> Option<Check> {
    let all = layout.topics.values().flat_map(|topic| topic.partitions.iter().map(move |part| (topic, part)));
    let mut without = all.filter(|(_, partition)| partition.leader.is_none()).peekable();
    let (topic, first) = without.peek()?;
    let example = format!("{}-{}", topic.name, first.index);
    let (mut count, mut missed) = (0, BTreeSet::<i32>::new());
    for (_, partition) in without {
        count += 1;
        missed.extend(partition.replicas.iter().filter(|id| !layout.brokers.contains_key(id)));
    }
    let what = format!("no leader for {} (e.g. {example})", counted(count, "partition"));
    let missed: Vec<String> = missed.iter().take(NAMED).map(ToString::to_string).collect();
    let hint = match missed.is_empty() {
        true => "they can't be backed up or restored until they have one: see the brokers' logs".to_owned(),
        false => format!(
            "they can't be backed up or restored until they have one: start broker {} again",
            missed.join(", ")
        ),
    };
    Some(Check::wrong("kafka", "partitions", what).hint(hint))
}
