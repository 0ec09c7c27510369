//! Time-outs, pauses and sockets.

use std::time::Duration;

use bodley_io::backoff::Pauses;
use bodley_io::kafka::ClientOptions;

use super::values::{SettingError, Values};

/// An hour: no wait is longer.
const LONGEST: i64 = 3_600_000;
/// Shorter pauses between tries would be none.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Client options without TLS and SASL.
pub fn options(values: &Values) -> Result<ClientOptions, SettingError> {
    let usual = ClientOptions::default();
    let text = |name| values.text(name).map(str::to_owned);
    let connect = values.millis("socket.connection.setup.timeout.ms", 1..=LONGEST)?;
    let longest = values.millis("socket.connection.setup.timeout.max.ms", 1..=LONGEST)?;
    let connect = connect.unwrap_or(usual.connect_timeout);
    let strategy = [("rebootstrap", true), ("none", false)];
    Ok(ClientOptions {
        client_id: text("client.id").unwrap_or(usual.client_id),
        rack: text("client.rack").unwrap_or(usual.rack),
        connect_timeout: longest.map_or(connect, |longest| connect.min(longest)),
        request_timeout: values.millis("request.timeout.ms", 1..=LONGEST)?.unwrap_or(usual.request_timeout),
        retry_pauses: retry_pauses(values, usual.retry_pauses)?,
        rebootstrap: values.choice("metadata.recovery.strategy", &strategy)?.unwrap_or(usual.rebootstrap),
        socket_buffers: (
            buffer(values, "send.buffer.bytes")?.or(usual.socket_buffers.0),
            buffer(values, "receive.buffer.bytes")?.or(usual.socket_buffers.1),
        ),
        ..ClientOptions::default()
    })
}

/// Kafka's clients pause on their own for connections and for requests, we for both alike: the longer one of each counts.
fn retry_pauses(values: &Values, usual: Pauses) -> Result<Pauses, SettingError> {
    let longer = |reconnect, retry| -> Result<Option<Duration>, SettingError> {
        Ok(values.millis(reconnect, 0..=LONGEST)?.max(values.millis(retry, 0..=LONGEST)?))
    };
    let first = longer("reconnect.backoff.ms", "retry.backoff.ms")?;
    let most = longer("reconnect.backoff.max.ms", "retry.backoff.max.ms")?;
    let (first, most) = match (first, most) {
        (Some(first), Some(most)) => (first.min(most), most),
        (Some(first), None) => (first, usual.longest.max(first)),
        (None, Some(most)) => (usual.first.min(most), most),
        (None, None) => (usual.first, usual.longest),
    };
    Ok(Pauses { first: first.max(SHORTEST_PAUSE), longest: most.max(SHORTEST_PAUSE) })
}

/// A socket buffer's size; -1 (Java) and 0 (librdkafka) leave it to the system.
fn buffer(values: &Values, name: &'static str) -> Result<Option<u32>, SettingError> {
    let size = values.number(name, -1..=i64::from(i32::MAX))?;
    Ok(size.and_then(|size| u32::try_from(size).ok()).filter(|size| *size > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::values;

    fn pauses(text: &str) -> (u128, u128) {
        let Pauses { first, longest } = options(&values(text)).unwrap().retry_pauses;
        (first.as_millis(), longest.as_millis())
    }

    #[test]
    fn pauses_combine() {
        assert_eq!(pauses(""), (50, 2000));
        assert_eq!(pauses("retry.backoff.ms=100"), (100, 2000));
        assert_eq!(pauses("retry.backoff.ms=100\nreconnect.backoff.ms=300"), (300, 2000));
        assert_eq!(pauses("retry.backoff.ms=5000"), (5000, 5000));
        assert_eq!(pauses("reconnect.backoff.max.ms=20"), (20, 20));
        assert_eq!(pauses("retry.backoff.ms=0\nretry.backoff.max.ms=9000"), (10, 9000));
    }

    #[test]
    fn timeouts_and_sockets() {
        let options = |text| options(&values(text)).unwrap();
        let connect = |text| options(text).connect_timeout.as_millis();
        assert_eq!(connect("socket.connection.setup.timeout.ms=4000"), 4000);
        assert_eq!(connect("socket.connection.setup.timeout.max.ms=4000"), 4000);
        let both = "socket.connection.setup.timeout.ms=4000\nsocket.connection.setup.timeout.max.ms=30000";
        assert_eq!(connect(both), 4000);
        let buffers = |text| options(text).socket_buffers;
        assert_eq!(buffers("send.buffer.bytes=-1\nsocket.receive.buffer.bytes=0"), (None, None));
        assert_eq!(buffers("send.buffer.bytes=131072\nreceive.buffer.bytes=1"), (Some(131_072), Some(1)));
    }
}
