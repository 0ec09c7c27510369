//! The shared files `~/.aws/credentials` and `~/.aws/config`
//! (<https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>). Written here because reqsign's reader takes an unreadable
//! file, a misspelt profile or a role for "nothing configured" and goes on to another identity.

use std::collections::BTreeMap;
use std::path::Path;

use super::Environment;
use crate::token_file::read_bounded;

/// Larger files are refused, in bytes.
const LARGEST_FILE: usize = 1024 * 1024;

pub(crate) type Profile = BTreeMap<String, String>;

/// All profiles of both files; where both set the same, the credentials file counts.
#[derive(Default)]
pub(crate) struct Profiles {
    profiles: BTreeMap<String, Profile>,
    /// `endpoint_url` below `s3 =` of `[services NAME]`, by that name.
    s3_endpoints: BTreeMap<String, String>,
    /// For messages.
    files: Vec<String>,
}

impl Profiles {
    /// Of the files that the environment names, or those in the home folder. An absent file is an empty one.
    ///
    /// # Errors
    /// A file that is there and cannot be read or understood.
    pub fn read(environment: &Environment) -> Result<Self, String> {
        let mut all = Self::default();
        let config = environment.file("AWS_CONFIG_FILE", ".aws/config");
        let credentials = environment.file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
        for (path, kind) in [(config, Kind::Config), (credentials, Kind::Credentials)] {
            let Some(path) = path else { continue };
            all.files.push(path.display().to_string());
            if is_absent(&path) {
                continue;
            }
            let text =
                read_bounded(&path, LARGEST_FILE).map_err(|why| format!("{} {why}", path.display()))?;
            all.take(&text, kind).map_err(|line| {
                format!("{} line {line} is neither a section, a setting nor a comment", path.display())
            })?;
        }
        Ok(all)
    }

    pub fn get(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name)
    }

    /// What the section that a profile names with `services` says of S3's endpoint
    /// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>).
    pub fn s3_endpoint(&self, profile: &Profile) -> Option<&str> {
        self.s3_endpoints.get(profile.get("services")?).map(String::as_str)
    }

    /// Where a profile was looked for.
    pub fn files(&self) -> String {
        self.files.join(" and ")
    }

    /// The error is the number of a line that makes no sense; its text may be a secret.
    fn take(&mut self, text: &str, kind: Kind) -> Result<(), usize> {
        let mut section: Option<&mut Profile> = None;
        let (mut services, mut is_s3) = (None, false);
        for (number, line) in text.lines().enumerate() {
            let indented = line.starts_with([' ', '\t']);
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let (name, _) = rest.split_once(']').ok_or(number + 1)?;
                section = kind.profile(name).map(|name| self.profiles.entry(name).or_default());
                services = name.trim().strip_prefix("services ").map(|name| name.trim().to_owned());
            } else if !indented {
                let (name, value) = line.split_once('=').ok_or(number + 1)?;
                is_s3 = name.trim() == "s3";
                if let Some(section) = &mut section {
                    section.insert(name.trim().to_ascii_lowercase(), without_comment(value).to_owned());
                }
            }
            // Indented lines are settings within a setting, of which one matters here.
            if let (true, true, Some(services), Some((name, value))) =
                (indented, is_s3, &services, line.split_once('='))
                && name.trim() == "endpoint_url"
            {
                self.s3_endpoints.insert(services.clone(), without_comment(value).to_owned());
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Config,
    Credentials,
}

impl Kind {
    /// The profile that a section is about; `None` for `[sso-session x]` and the like.
    fn profile(self, section: &str) -> Option<String> {
        let section = section.trim();
        let name = match (self, section.strip_prefix("profile")) {
            (Self::Config, Some(name)) if name.starts_with([' ', '\t']) => {
                name.trim().trim_matches(['"', '\''])
            }
            (Self::Config, _) if section == "default" => section,
            (Self::Config, _) => return None,
            (Self::Credentials, _) => section,
        };
        (!name.is_empty()).then(|| name.to_owned())
    }
}

/// A comment after a value begins with white space.
fn without_comment(value: &str) -> &str {
    let end = [" #", " ;", "\t#", "\t;"].iter().filter_map(|mark| value.find(mark)).min();
    end.and_then(|end| value.get(..end)).unwrap_or(value).trim()
}

fn is_absent(path: &Path) -> bool {
    matches!(std::fs::metadata(path), Err(error) if error.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_kinds() {
        let mut all = Profiles::default();
        let config = "# x\n[default]\nregion=eu-west-1 # here\n[profile \"a b\"]\nRole_ARN = arn:x\ns3 =\n  max = 1\n\
                      [services mine]\ndynamodb =\n  endpoint_url = z\ns3 =\n  endpoint_url = http://localhost:1 # x\n\
                      [profile here]\nservices = mine\n[sso-session y]\nregion = z\n[profilex]\nregion = z\n";
        all.take(config, Kind::Config).unwrap();
        all.take(
            "[default]\nregion = over\naws_secret_access_key = a#b;c/+=\n[plain]\nx=\n",
            Kind::Credentials,
        )
        .unwrap();
        let names: Vec<&String> = all.profiles.keys().collect();
        assert_eq!(names, ["a b", "default", "here", "plain"]);
        assert_eq!(all.s3_endpoint(all.get("here").unwrap()), Some("http://localhost:1"));
        assert_eq!(all.s3_endpoint(all.get("default").unwrap()), None);
        assert_eq!(all.get("a b").unwrap()["role_arn"], "arn:x");
        assert!(!all.get("a b").unwrap().contains_key("max"));
        assert_eq!(all.get("default").unwrap()["region"], "over");
        assert_eq!(all.get("default").unwrap()["aws_secret_access_key"], "a#b;c/+=");
        assert_eq!(all.take("[default]\n\nhunter2\n", Kind::Config), Err(3));
        assert_eq!(all.take("[default\n", Kind::Config), Err(1));
    }
}
