//! Which AWS region a broker is in.

use super::Environment;

/// From the setting, else from the broker's name, else from the environment.
///
/// # Errors
/// A sentence that says what to set.
pub(crate) fn of_broker(
    setting: Option<&str>,
    host: &str,
    environment: &Environment,
) -> Result<String, String> {
    let region = setting.or_else(|| in_host(host)).or_else(|| of_environment(environment)).ok_or_else(|| {
        format!("the AWS region of {host} is not in its name: set the region, AWS_REGION or AWS_DEFAULT_REGION")
    })?;
    if is_region(region) { Ok(region.to_owned()) } else { Err(format!("{region:?} is not an AWS region")) }
}

/// From the environment.
pub(crate) fn of_environment(environment: &Environment) -> Option<&str> {
    environment.first(&["AWS_REGION", "AWS_DEFAULT_REGION"])
}

/// Letters, digits and hyphens: it becomes part of host names.
pub(crate) fn is_region(text: &str) -> bool {
    (3..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// The label between `kafka` or `kafka-serverless` and Amazon's domain.
fn in_host(host: &str) -> Option<&str> {
    let host = host.trim_end_matches('.');
    let rest = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let (rest, region) = rest.rsplit_once('.')?;
    let service = rest.rsplit_once('.').map_or(rest, |(_, service)| service);
    matches!(service, "kafka" | "kafka-serverless").then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_then_the_name_then_the_environment() {
        let variables = |pairs: &[(&str, &str)]| {
            Environment::new(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())), None)
        };
        let none = variables(&[]);
        for (host, region) in [
            ("b-1.name.abc.c2.kafka.eu-west-1.amazonaws.com", "eu-west-1"),
            ("b-1-public.name.abc.c2.kafka.us-gov-west-1.amazonaws.com.", "us-gov-west-1"),
            ("boot-abc.c1.kafka-serverless.us-east-1.amazonaws.com", "us-east-1"),
            ("b-2.name.abc.c3.kafka.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ] {
            assert_eq!(of_broker(None, host, &none).unwrap(), region);
            assert_eq!(of_broker(Some("eu-north-1"), host, &none).unwrap(), "eu-north-1");
        }
        for host in ["broker.internal", "x.s3.eu-west-1.amazonaws.com", "kafka.amazonaws.com.evil.example"] {
            let error = of_broker(None, host, &none).unwrap_err();
            assert!(error.contains(host) && error.contains("AWS_REGION"), "{error}");
        }
        let both = variables(&[("AWS_REGION", "eu-west-3"), ("AWS_DEFAULT_REGION", "eu-west-2")]);
        assert_eq!(of_broker(None, "broker.internal", &both).unwrap(), "eu-west-3");
        let default = variables(&[("AWS_REGION", ""), ("AWS_DEFAULT_REGION", "eu-west-2")]);
        assert_eq!(of_broker(None, "broker.internal", &default).unwrap(), "eu-west-2");
        assert!(of_broker(Some("eu/west"), "b", &none).unwrap_err().contains("not an AWS region"));
    }
}
