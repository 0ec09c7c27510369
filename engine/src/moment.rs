//! Times as people write them, and the commits that a vault can be looked at.

use std::fmt;
use std::str::FromStr;

use crate::error::EngineError;
use crate::vault::log::Vault;

/// From here on a bare number is a time in ms (March 1973), below it is the number of a commit.
const FIRST_TIME: u64 = 100_000_000_000;

/// A time: RFC 3339, milliseconds since 1970, or so long before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Milliseconds since 1970.
    At(i64),
    /// Milliseconds before now.
    Ago(i64),
}

/// A span of `ms` in the largest unit that fits: `119 s`, `90 min`, `36 h`, `3 days`.
pub fn span(ms: i64) -> String {
    match ms / 1000 {
        s if s < 120 => format!("{s} s"),
        s if s < 120 * 60 => format!("{} min", s / 60),
        s if s < 48 * 3600 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

impl Moment {
    /// Milliseconds since 1970, where now is `now`.
    pub fn resolve(self, now: i64) -> i64 {
        match self {
            Self::At(ms) => ms,
            Self::Ago(ms) => now.saturating_sub(ms),
        }
    }

    /// It depends on when it is asked.
    pub fn is_relative(self) -> bool {
        matches!(self, Self::Ago(_))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(ms) => match jiff::Timestamp::from_millisecond(*ms) {
                Ok(time) => write!(f, "{time}"),
                Err(_) => write!(f, "{ms}"),
            },
            Self::Ago(ms) => write!(f, "-{ms}ms"),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{text}` is no time: write 2026-01-02T03:04:05Z, milliseconds since 1970, or a time ago such as -30m, -2h or -7d"
            )
        };
        if text == "now" {
            return Ok(Self::Ago(0));
        }
        if let Some(ago) = text.strip_prefix('-') {
            return milliseconds(ago).map(Self::Ago).ok_or_else(bad);
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::At).map_err(|_| bad());
        }
        text.parse::<jiff::Timestamp>().map(|time| Self::At(time.as_millisecond())).map_err(|_| bad())
    }
}

/// `500ms`, `30s`, `5m`, `2h`, `7d`, `1w`.
fn milliseconds(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(unit)
}

/// Which commit of a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    /// By number.
    Seq(u64),
    /// The newest that is not younger.
    Time(Moment),
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse::<u64>()
            && number < FIRST_TIME
            && text.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Ok(Self::Seq(number));
        }
        text.parse().map(Self::Time).map_err(|_: String| {
            format!(
                "`{text}` is neither the number of a commit nor a time: `bodley show --commits` lists both"
            )
        })
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seq(seq) => write!(f, "commit {seq}"),
            Self::Time(moment) => write!(f, "{moment}"),
        }
    }
}

impl Vault {
    /// Goes back to the commit that is meant, for reading the vault as it was then. `now`: ms since 1970.
    pub async fn go_back(&mut self, at: At, now: i64) -> Result<(), EngineError> {
        let head = self.receipt().seq;
        let seq = match at {
            At::Seq(seq) if (1..=head).contains(&seq) => seq,
            At::Seq(seq) => {
                return Err(EngineError::Refused(format!(
                    "there is no commit {seq}: the vault has commits 1 to {head}"
                )));
            }
            At::Time(moment) => self.seq_at(moment.resolve(now)).await?,
        };
        if seq < head { Ok(self.rewind(seq).await?) } else { Ok(()) }
    }

    /// The newest commit that is not younger than `time`, ms. Times of commits only grow.
    async fn seq_at(&self, time: i64) -> Result<u64, EngineError> {
        let (mut low, mut high) = (0, self.receipt().seq);
        if self.head_time() <= time {
            return Ok(high);
        }
        // Commit `low` is old enough (0: none is), commit `high` is too young.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.read_commit(middle).await?.0.time <= time {
                true => low = middle,
                false => high = middle,
            }
        }
        match low {
            0 => {
                let first = Moment::At(self.read_commit(1).await?.0.time);
                let time = Moment::At(time);
                Err(EngineError::Refused(format!(
                    "the vault's first commit is of {first}, younger than {time}"
                )))
            }
            seq => Ok(seq),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let ms = |text: &str| text.parse::<Moment>().map(|moment| moment.resolve(1_000_000_000_000));
        assert_eq!(ms("2026-01-02T03:04:05Z"), Ok(1_767_323_045_000));
        assert_eq!(ms("2026-01-02T04:04:05.123+01:00"), Ok(1_767_323_045_123));
        assert_eq!(ms("1767323045123"), Ok(1_767_323_045_123));
        assert_eq!(ms("0"), Ok(0));
        assert_eq!(ms("-2h"), Ok(1_000_000_000_000 - 7_200_000));
        assert_eq!(ms("-1500ms"), Ok(1_000_000_000_000 - 1500));
        assert_eq!(ms("now"), Ok(1_000_000_000_000));
        for bad in [
            "",
            "2026-01-02",
            "2026-13-01T00:00:00Z",
            "2h",
            "-2",
            "-h",
            "--2h",
            "-+2h",
            "1e3",
            "yesterday",
            "2026-01-02T03:04:05",
            "99999999999999999999",
            "-9999999999999999w",
        ] {
            assert!(ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn commits() {
        assert_eq!("12".parse(), Ok(At::Seq(12)));
        assert_eq!("1767323045123".parse(), Ok(At::Time(Moment::At(1_767_323_045_123))));
        assert_eq!("-1d".parse(), Ok(At::Time(Moment::Ago(86_400_000))));
        assert!("+5".parse::<At>().is_err() && "x".parse::<At>().is_err());
    }
}
