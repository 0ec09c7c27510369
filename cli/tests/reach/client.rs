//! Bodley with a file of settings and a few variables, and nothing else that this machine knows.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use bodley_testbed::iam::{AwsCredentials, REGION};
use bodley_testbed::{Cluster, Door, Login, properties};
use tempfile::TempDir;

use crate::common::vault::Vault;
use crate::common::{Ran, Running, command, spawn};

const FILE: &str = "client.properties";

/// Who goes to a cluster by a door.
pub struct Client {
    folder: TempDir,
    settings: Vec<(String, String)>,
    variables: Vec<(String, String)>,
    secrets: Vec<String>,
}

impl Client {
    /// With the settings that Apache's client has, in its spelling.
    pub fn new(cluster: &Cluster, door: Door, login: &Login) -> Self {
        let client = Self::of(cluster.client_properties(door, login).unwrap());
        match login {
            Login::Password { password, .. } => client.secret(password),
            Login::Client { client: known, .. } => client.secret(known.secret),
            Login::TokenFile(file) => match fs::read_to_string(file) {
                Ok(token) => client.secret(&token),
                Err(_) => client,
            },
            Login::Anonymous | Login::Certificate(_) | Login::Iam => client,
        }
    }

    /// With these settings.
    pub fn of(settings: Vec<(String, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, settings, variables: Vec::new(), secrets: Vec::new() }
    }

    /// By AWS's credentials.
    pub fn aws(cluster: &Cluster, credentials: &AwsCredentials) -> Self {
        let client = Self::new(cluster, Door::Iam, &Login::Iam);
        let client = client.variable("AWS_ACCESS_KEY_ID", &credentials.access_key_id);
        let client = client.variable("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key);
        let client = client.secret(&credentials.secret_access_key);
        match &credentials.session_token {
            Some(token) => client.variable("AWS_SESSION_TOKEN", token).secret(token),
            None => client,
        }
    }

    /// Sets or replaces a setting.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(other, _)| other != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves settings out whose names start so.
    pub fn without(mut self, start: &str) -> Self {
        self.settings.retain(|(name, _)| !name.starts_with(start));
        self
    }

    /// Sets a variable of the environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// This may be seen nowhere.
    pub fn secret(mut self, secret: &str) -> Self {
        let quoted = format!("{secret:?}");
        self.secrets.extend([secret.to_owned(), quoted.trim_matches('"').to_owned()]);
        self
    }

    /// Where its home is, for files of its own.
    pub fn home(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// `bodley VERB --command-config FILE --vault … --output json`, started.
    pub fn start(&self, verb: &str, vault: &Vault, args: &[&str]) -> Running {
        let file = self.folder.path().join(FILE);
        fs::write(&file, properties::text(&self.settings)).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        let file = file.display().to_string();
        let fixed = [verb, "--command-config", &file, "--vault", vault.url(), "--output", "json"];
        let args = [&fixed, args].concat();
        let mut command = command(&args);
        // Nothing that this machine knows of AWS may help.
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", self.folder.path()).env("AWS_REGION", REGION);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        spawn(command, &args)
    }

    /// The end of a run, which has told no secret.
    #[track_caller]
    pub fn end(&self, run: Running) -> Ran {
        let ran = run.wait();
        self.keeps_secrets("stderr", ran.err.as_bytes());
        self.keeps_secrets("stdout", ran.out.as_bytes());
        ran
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, verb: &str, vault: &Vault, args: &[&str]) -> Ran {
        self.end(self.start(verb, vault, args))
    }

    /// None of its secrets is in there.
    #[track_caller]
    pub fn keeps_secrets(&self, place: &str, bytes: &[u8]) {
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "a secret is in {place}");
        }
    }

    /// None of its secrets is in a vault.
    #[track_caller]
    pub fn left_nothing_in(&self, vault: &Vault) {
        for object in vault.objects().keys() {
            self.keeps_secrets(object, &fs::read(vault.root().join(object)).unwrap());
        }
    }
}
