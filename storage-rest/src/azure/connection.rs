//! Connection strings and SAS tokens
//! (<https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string>).

use std::time::SystemTime;

use bodley_io::Secret;

/// The emulator's account and key, the same for everybody.
const EMULATOR: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);
const EMULATOR_ENDPOINT: &str = "http://127.0.0.1:10000/devstoreaccount1";

/// What a connection string says about blobs.
#[derive(Debug, Default)]
pub(crate) struct ConnectionString {
    pub account: Option<String>,
    pub endpoint: Option<String>,
    pub key: Option<Secret>,
    pub sas: Option<Secret>,
}

impl ConnectionString {
    /// # Errors
    /// Names no part of the text: it may be a secret.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or(
                "AZURE_STORAGE_CONNECTION_STRING has a part without =: copy it again from the portal",
            )?;
            parts.push((name.trim(), value.trim()));
        }
        let get = |wanted: &str| {
            let mut named = parts.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
            named.next().map(|(_, value)| *value).filter(|value| !value.is_empty())
        };
        if get("UseDevelopmentStorage").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            let (account, key) = EMULATOR;
            return Ok(Self {
                account: Some(account.to_owned()),
                endpoint: Some(EMULATOR_ENDPOINT.to_owned()),
                key: Some(Secret::new(key)),
                sas: None,
            });
        }
        let account = get("AccountName");
        let suffix = get("EndpointSuffix").unwrap_or("core.windows.net");
        let scheme = get("DefaultEndpointsProtocol").unwrap_or("https");
        let usual = account.map(|account| format!("{scheme}://{account}.blob.{suffix}"));
        Ok(Self {
            endpoint: get("BlobEndpoint").map(str::to_owned).or(usual),
            account: account.map(str::to_owned),
            key: get("AccountKey").map(Secret::new),
            sas: get("SharedAccessSignature").map(Secret::new),
        })
    }
}

/// When a SAS token ends, as far as it says so in itself; the outer `None`: that is no SAS token.
pub(crate) fn sas_end(query: &str) -> Option<Option<SystemTime>> {
    let url = reqwest::Url::parse(&format!("https://a.example/?{query}")).ok()?;
    let get = |wanted: &str| url.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value);
    get("sv")?;
    get("sig").filter(|sig| !sig.is_empty())?;
    Some(get("se").and_then(|end| time(&end)))
}

/// Azure takes times with seconds, without them, and days.
fn time(text: &str) -> Option<SystemTime> {
    let minutes = text.strip_suffix('Z').map(|start| format!("{start}:00Z"));
    let forms = [Some(text.to_owned()), minutes, Some(format!("{text}T00:00:00Z"))];
    forms.into_iter().flatten().find_map(|form| form.parse::<jiff::Timestamp>().ok()).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn connection_strings_are_read() {
        let read = |text| ConnectionString::read(text).unwrap();
        let usual = read(
            "DefaultEndpointsProtocol=https;AccountName=abc;AccountKey=a+b==;EndpointSuffix=core.chinacloudapi.cn",
        );
        assert_eq!(usual.account.as_deref(), Some("abc"));
        assert_eq!(usual.endpoint.as_deref(), Some("https://abc.blob.core.chinacloudapi.cn"));
        assert_eq!(usual.key.unwrap().expose(), "a+b==");
        let sas = read("BlobEndpoint=https://x.example/; SharedAccessSignature=sv=1&sig=a%3D;");
        assert_eq!((sas.account, sas.endpoint.as_deref()), (None, Some("https://x.example/")));
        assert_eq!(sas.sas.unwrap().expose(), "sv=1&sig=a%3D");
        let emulator = read("UseDevelopmentStorage=true");
        assert_eq!(emulator.endpoint.as_deref(), Some(EMULATOR_ENDPOINT));
        assert!(!ConnectionString::read("AccountName=a;hunter2").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn sas_tokens_say_when_they_end() {
        let at = |seconds| Some(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
        assert_eq!(sas_end("sv=2025-11-05&se=2033-05-18T03%3A33%3A20Z&sig=x"), at(2_000_000_000));
        assert_eq!(sas_end("sv=1&se=2033-05-18T03%3A33Z&sig=x"), at(1_999_999_980));
        assert_eq!(sas_end("sv=1&se=2033-05-18&sig=x"), at(1_999_987_200));
        assert_eq!(sas_end("sv=1&si=policy&sig=x"), Some(None));
        assert_eq!(sas_end("sv=1&se=2033-05-18"), None);
    }
}
