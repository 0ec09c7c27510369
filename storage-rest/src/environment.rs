//! What vendors' settings are read from: variables and the home folder, as one value, so that nothing else looks at the process.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use bodley_io::Secret;

/// What the names of variables that matter begin with.
const OURS: [&str; 7] =
    ["AWS_", "AZURE_", "GOOGLE_", "GCE_", "CLOUDSDK_", "STORAGE_EMULATOR_HOST", "IDENTITY_"];

/// The variables of AWS, Azure and Google, and the home folder. `Debug` shows names only.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, Secret>,
    home: Option<PathBuf>,
}

impl Environment {
    /// Those of this process, as they are now.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::new(variables, std::env::home_dir())
    }

    /// These. Names that are of no vendor's are left out.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>, home: Option<PathBuf>) -> Self {
        let ours = variables.into_iter().filter(|(name, _)| OURS.iter().any(|ours| name.starts_with(ours)));
        Self { variables: ours.map(|(name, value)| (name, Secret::new(value))).collect(), home }
    }

    /// A variable that is set to something; as everywhere, an empty one is none.
    pub(crate) fn var(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|value| value.expose().trim()).filter(|value| !value.is_empty())
    }

    /// The first of these that is set.
    pub(crate) fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.var(name))
    }

    /// A path below the home folder, if there is one.
    pub(crate) fn in_home(&self, path: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(path))
    }

    /// The file that a variable names, else the one in the home folder. `~/` is the home folder.
    pub(crate) fn file(&self, variable: &str, in_home: &str) -> Option<PathBuf> {
        let Some(path) = self.var(variable) else { return self.in_home(in_home) };
        match (path.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => Some(home.join(rest)),
            _ => Some(Path::new(path).to_owned()),
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("variables", &self.variables.keys())
            .field("home", &self.home)
            .finish()
    }
}
