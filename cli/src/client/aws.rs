//! AWS credentials for AWS_MSK_IAM and OAUTHBEARER, as the options of aws-msk-iam-auth's login module name them.

use super::sasl::Login;
use super::values::SettingError;

/// Whose AWS credentials. All empty: the usual chain of environment, profile, container and instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AwsIdentity {
    /// A profile of ~/.aws/config and ~/.aws/credentials.
    pub profile: Option<String>,
    /// A role to assume.
    pub role_arn: Option<String>,
    /// What the role's sessions are called.
    pub role_session_name: Option<String>,
    /// What the role's trust policy may ask for.
    pub external_id: Option<String>,
    /// Region of the STS endpoint that gives the role.
    pub sts_region: Option<String>,
}

const HONOURED: [&str; 5] =
    ["awsProfileName", "awsRoleArn", "awsRoleSessionName", "awsRoleExternalId", "awsStsRegion"];
/// About logs and retries of that library.
const NO_MEANING: [&str; 3] = ["awsDebugCreds", "awsMaxRetries", "awsMaxBackOffTimeMs"];
const KEYS: [&str; 3] = ["awsRoleAccessKeyId", "awsRoleSecretAccessKey", "awsRoleSessionToken"];

/// Reads the login module's options; `more` are known to others.
pub fn identity(
    login: Option<&Login<'_>>,
    more: &[&str],
    notes: &mut Vec<String>,
) -> Result<AwsIdentity, SettingError> {
    let Some(login) = login else { return Ok(AwsIdentity::default()) };
    if KEYS.iter().any(|name| login.option(name).is_some()) {
        let instead = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or name a profile";
        return Err(login.setting.error(format!("access keys are not supported here: {instead}")));
    }
    login.only(&[&HONOURED[..], &NO_MEANING[..], more].concat())?;
    let unused: Vec<&str> = NO_MEANING.into_iter().filter(|name| login.option(name).is_some()).collect();
    if !unused.is_empty() {
        notes.push(format!("sasl.jaas.config: options without meaning for bodley: {}", unused.join(", ")));
    }
    let option = |name| login.option(name).filter(|value| !value.is_empty());
    let identity = AwsIdentity {
        profile: option("awsProfileName"),
        role_arn: option("awsRoleArn"),
        role_session_name: option("awsRoleSessionName"),
        external_id: option("awsRoleExternalId"),
        sts_region: option("awsStsRegion"),
    };
    match (&identity.profile, &identity.role_arn) {
        // AWS's library takes the profile and turns to the role only where that fails.
        (Some(_), Some(_)) => Err(login.setting.error(
            "leave one of awsProfileName and awsRoleArn: a profile can name a role itself (role_arn)",
        )),
        (_, None) if identity.role_session_name.is_some() || identity.external_id.is_some() => {
            Err(login.setting.error("awsRoleSessionName and awsRoleExternalId need awsRoleArn"))
        }
        (_, None) if identity.sts_region.is_some() => {
            notes.push("sasl.jaas.config: awsStsRegion has no effect without awsRoleArn".to_owned());
            Ok(identity)
        }
        _ => Ok(identity),
    }
}
