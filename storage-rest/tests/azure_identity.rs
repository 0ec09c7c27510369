//! Every way to be somebody for Azure, against servers that behave well or badly: the one that is configured counts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use bodley_io::TokenError;
use bodley_storage_rest::azure::{AzureAccess, AzureAuth, AzureCredential, AzureCredentials};
use bodley_storage_rest::{Environment, SettingError};
use common::{Asked, Fake, MARKER, Reply, reply, tls};

/// An environment with these variables.
fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::new(variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())), None)
}

fn access(auth: AzureAuth) -> AzureAccess {
    AzureAccess { account: Some("vaults".to_owned()), auth, ..AzureAccess::default() }
}

fn credentials(variables: &[(&str, &str)], auth: AzureAuth) -> Result<AzureCredentials, SettingError> {
    AzureCredentials::new(&access(auth), &environment(variables), &tls())
}

/// Nothing that can be shown may show a secret.
async fn get(variables: &[(&str, &str)]) -> Result<AzureCredential, TokenError> {
    let credentials = credentials(variables, AzureAuth::Auto).unwrap();
    let outcome = credentials.get().await;
    let error = outcome.as_ref().err().map(ToString::to_string);
    let shown = format!("{credentials:?} {outcome:?} {error:?} {:?}", environment(variables));
    assert!(!shown.contains(MARKER), "{shown}");
    outcome
}

fn bearer(found: &AzureCredential) -> &str {
    match found {
        AzureCredential::Bearer(token) => token.expose(),
        other => panic!("{other:?}"),
    }
}

fn refused(variables: &[(&str, &str)], auth: AzureAuth) -> String {
    let error = credentials(variables, auth).unwrap_err().to_string();
    assert!(!error.contains(MARKER), "{error}");
    error
}

fn token(text: &str) -> Reply {
    reply(200, format!(r#"{{"token_type":"Bearer","expires_in":3599,"access_token":"{MARKER}{text}"}}"#))
}

#[tokio::test]
async fn the_first_that_is_configured_counts() {
    let string = format!("AccountName=vaults;AccountKey={MARKER}0;BlobEndpoint=https://b.example/x/");
    let sas = format!("?sv=2025-11-05&sp=rcw&sig={MARKER}");
    let all = [
        ("AZURE_STORAGE_CONNECTION_STRING", string.as_str()),
        ("AZURE_STORAGE_KEY", "a2V5"),
        ("AZURE_STORAGE_SAS_TOKEN", &sas),
        ("AZURE_CLIENT_SECRET", MARKER),
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/token"),
    ];
    for (skip, identity, endpoint) in [
        (0, "account key of AZURE_STORAGE_CONNECTION_STRING", "https://b.example/x"),
        (1, "account key of AZURE_STORAGE_KEY", "https://vaults.blob.core.windows.net/"),
        (2, "SAS token of AZURE_STORAGE_SAS_TOKEN", "https://vaults.blob.core.windows.net/"),
        (3, "client secret of client", "https://vaults.blob.core.windows.net/"),
    ] {
        let found = credentials(&all[skip..], AzureAuth::Auto).unwrap();
        assert_eq!((found.identity().as_str(), found.endpoint().as_str()), (identity, endpoint));
    }
    for (auth, identity) in [
        (AzureAuth::Sas, "SAS token of AZURE_STORAGE_SAS_TOKEN"),
        (AzureAuth::WorkloadIdentity, "workload identity client"),
        (AzureAuth::ManagedIdentity, "managed identity client"),
    ] {
        assert_eq!(credentials(&all, auth).unwrap().identity(), identity);
    }
    assert_eq!(credentials(&[], AzureAuth::Auto).unwrap().identity(), "managed identity");
    let AzureCredential::Sas(query) = get(&all[2..3]).await.unwrap() else { panic!("no SAS") };
    assert_eq!(query.expose(), sas.trim_start_matches('?'));
}

#[test]
fn what_cannot_work_is_said_at_once() {
    let string = format!("AccountName=others;AccountKey={MARKER}00");
    for (variables, why) in [
        (vec![("AZURE_STORAGE_KEY", "hunter2!")], "AZURE_STORAGE_KEY is not an account key"),
        (vec![("AZURE_STORAGE_SAS_TOKEN", "hunter2")], "AZURE_STORAGE_SAS_TOKEN is not a SAS token"),
        (vec![("AZURE_STORAGE_CONNECTION_STRING", "hunter2")], "has a part without ="),
        (vec![("AZURE_STORAGE_CONNECTION_STRING", string.as_str())], "is for the account others"),
        (
            vec![("AZURE_STORAGE_KEY", "a2V5"), ("AZURE_STORAGE_ACCOUNT", "others")],
            "AZURE_STORAGE_KEY is for the account others (AZURE_STORAGE_ACCOUNT), but the vault's is vaults",
        ),
        (vec![("AZURE_CLIENT_SECRET", MARKER)], "AZURE_CLIENT_SECRET is set, but AZURE_TENANT_ID is not"),
        (vec![("AZURE_CLIENT_CERTIFICATE_PATH", "/x")], "certificates are not supported"),
        (
            vec![("AZURE_FEDERATED_TOKEN_FILE", "/x"), ("AZURE_TENANT_ID", "t")],
            "AZURE_FEDERATED_TOKEN_FILE is set, but AZURE_CLIENT_ID is not",
        ),
        (vec![("IDENTITY_ENDPOINT", "http://localhost:1/")], "IDENTITY_HEADER is not"),
        (vec![("AZURE_STORAGE_SERVICE_ENDPOINT", "http://far.example")], "http would show secrets"),
        (
            vec![("AZURE_CLIENT_SECRET", MARKER), ("AZURE_TENANT_ID", "t/../x"), ("AZURE_CLIENT_ID", "c")],
            "AZURE_TENANT_ID is neither",
        ),
    ] {
        let error = refused(&variables, AzureAuth::Auto);
        assert!(error.contains(why), "{error}");
    }
    let error = refused(&[], AzureAuth::Key);
    assert!(error.contains("AZURE_STORAGE_KEY is not set, as credentials=key needs"), "{error}");
    for account in ["Vaults", "a", "a/b"] {
        let access = AzureAccess { account: Some(account.to_owned()), ..AzureAccess::default() };
        let error = AzureCredentials::new(&access, &environment(&[]), &tls()).unwrap_err();
        assert!(error.what.contains("is not a storage account's name"), "{error}");
    }
    assert_eq!("workload-identity".parse(), Ok(AzureAuth::WorkloadIdentity));
    assert!("hunter".parse::<AzureAuth>().unwrap_err().contains("none of auto, connection-string, key"));
}

#[tokio::test]
async fn a_sas_token_that_ended_is_not_tried() {
    let sas = format!("sv=2025-11-05&se=2024-01-02T03:04:05Z&sig={MARKER}");
    let error = get(&[("AZURE_STORAGE_SAS_TOKEN", &sas)]).await.unwrap_err();
    let want = "Azure: SAS token of AZURE_STORAGE_SAS_TOKEN ended at 2024-01-02T03:04:05Z: make a new one";
    assert_eq!((error.what.as_str(), error.passing), (want, false));
}

#[tokio::test]
async fn entra_is_asked_with_the_secret() {
    let fake = Fake::start(|n, _| if n == 0 { reply(503, "") } else { token("-app") }).await;
    let secret = format!("{MARKER}+/&=");
    let variables = [
        ("AZURE_CLIENT_SECRET", secret.as_str()),
        ("AZURE_TENANT_ID", "contoso.example"),
        ("AZURE_CLIENT_ID", "11-22"),
        ("AZURE_AUTHORITY_HOST", &fake.url),
    ];
    assert_eq!(bearer(&get(&variables).await.unwrap()), "hunter2-app");
    let asked = &fake.asked()[1];
    assert_eq!(asked.line, "POST /contoso.example/oauth2/v2.0/token");
    assert_eq!(
        asked.body,
        "grant_type=client_credentials&client_id=11-22&scope=https%3A%2F%2Fstorage.azure.com%2F.default\
         &client_secret=hunter2%2B%2F%26%3D"
    );
}

#[tokio::test]
async fn entra_refuses_by_name_and_nothing_takes_its_place() {
    let body = format!(
        r#"{{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret {MARKER}t provided.\r\n"}}"#
    );
    let fake = Fake::start(move |_, _| reply(401, body.clone())).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{MARKER}t\n")).unwrap();
    let variables = [
        ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap()),
        ("AZURE_TENANT_ID", "t"),
        ("AZURE_CLIENT_ID", "11-22"),
        ("AZURE_AUTHORITY_HOST", &fake.url),
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", &fake.url),
    ];
    let error = get(&variables).await.unwrap_err();
    let start = format!("Azure: workload identity 11-22: {}/t/oauth2/v2.0/token answered HTTP 401", fake.url);
    assert!(error.what.starts_with(&start), "{error}");
    assert!(
        error.what.ends_with("invalid_client: AADSTS7000215: Invalid client secret … provided."),
        "{error}"
    );
    assert!(!error.passing && fake.asked().len() == 1);
    let asked = &fake.asked()[0];
    assert!(
        asked.body.contains("client_assertion=hunter2t&")
            || asked.body.ends_with("client_assertion=hunter2t")
    );
    assert!(
        asked.body.contains(
            "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"
        )
    );
    std::fs::remove_file(&file).unwrap();
    let error = get(&variables).await.unwrap_err();
    assert!(error.what.contains("the token file") && error.what.contains("cannot be read") && error.passing);
}

fn machine(_: usize, asked: &Asked) -> Reply {
    let on = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let on = on.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let found = format!(r#"{{"access_token":"{MARKER}-machine","expires_on":"{on}","resource":"x"}}"#);
    match asked.line.as_str() {
        line if line.starts_with("GET /metadata/identity/oauth2/token?")
            && asked.header("metadata") != "true" =>
        {
            reply(
                400,
                r#"{"error":"bad_request_102","error_description":"Required metadata header not specified"}"#,
            )
        }
        "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F" => {
            reply(200, found)
        }
        line if line.ends_with("&client_id=11-22") && line.contains("/metadata/") => {
            reply(400, r#"{"error":"invalid_request","error_description":"Identity not found"}"#)
        }
        "GET /msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fstorage.azure.com%2F&client_id=11-22"
            if asked.header("x-identity-header") == "hunter2-header" =>
        {
            reply(200, found)
        }
        line => reply(404, line),
    }
}

#[tokio::test]
async fn managed_identities() {
    let fake = Fake::start(machine).await;
    let host = ("AZURE_POD_IDENTITY_AUTHORITY_HOST", fake.url.as_str());
    assert_eq!(bearer(&get(&[host]).await.unwrap()), "hunter2-machine");
    let error = get(&[host, ("AZURE_CLIENT_ID", "11-22")]).await.unwrap_err();
    assert!(error.what.starts_with("Azure: managed identity 11-22: http://127.0.0.1:"), "{error}");
    assert!(
        error.what.contains("HTTP 400 Bad Request: invalid_request: Identity not found (asked because no")
    );
    let service = format!("{}/msi/token", fake.url);
    let variables = [
        ("IDENTITY_ENDPOINT", service.as_str()),
        ("IDENTITY_HEADER", "hunter2-header"),
        ("AZURE_CLIENT_ID", "11-22"),
    ];
    assert_eq!(bearer(&get(&variables).await.unwrap()), "hunter2-machine");
    // Nobody there.
    let error = get(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9")]).await.unwrap_err();
    assert!(error.what.contains("cannot be reached") && error.what.contains("AZURE_STORAGE_KEY"), "{error}");
}
