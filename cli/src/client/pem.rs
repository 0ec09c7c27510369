//! PEM in a setting: `.properties` files mostly hold it as one line.

use bodley_io::kafka::security::{Material, pem_block};

use super::values::{Setting, SettingError};

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// There is a PEM block in it.
pub fn looks_like(bytes: &[u8]) -> bool {
    bytes.windows(BEGIN.len()).any(|window| window == BEGIN.as_bytes())
}

/// The setting's blocks, with their line breaks put back where they got lost.
pub fn inline(setting: &Setting) -> Result<Material, SettingError> {
    let text = setting.value.expose();
    let bad = || {
        setting.error("this is no PEM: write -----BEGIN …-----, base64 and -----END …-----, or name a file")
    };
    let (mut out, mut rest) = (String::new(), text);
    while let Some((_, block)) = rest.split_once(BEGIN) {
        let (label, block) = block.split_once(DASHES).ok_or_else(bad)?;
        let (body, behind) = block.split_once(END).ok_or_else(bad)?;
        let behind = behind.strip_prefix(label).and_then(|behind| behind.strip_prefix(DASHES));
        rest = behind.ok_or_else(bad)?;
        out.push_str(&pem_block(label, body));
    }
    if out.is_empty() { Err(bad()) } else { Ok(Material { source: setting.key.clone(), bytes: out.into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodley_io::Secret;

    fn of(text: &str) -> Result<String, String> {
        let setting = Setting { key: "ssl.key.pem".into(), value: Secret::new(text), origin: "f:1".into() };
        let material = inline(&setting).map_err(|e| e.to_string())?;
        assert_eq!(material.source, "ssl.key.pem");
        Ok(String::from_utf8(material.bytes.to_vec()).unwrap())
    }

    #[test]
    fn lines_come_back() {
        let right = "-----BEGIN A B-----\nAAAA\nBBBB\n-----END A B-----\n";
        assert_eq!(of(right).unwrap(), right);
        assert_eq!(of("-----BEGIN A B----- AAAA BBBB -----END A B-----").unwrap(), right);
        assert_eq!(of(&right.repeat(2).replace('\n', " ")).unwrap(), right.repeat(2));
        let old = "-----BEGIN R-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: X,1\n\nAAAA\n-----END R-----\n";
        assert_eq!(of(old).unwrap(), old);
        for bad in ["", "hunter2", "-----BEGIN A-----hunter2", "-----BEGIN A-----hunter2-----END B-----"] {
            let message = of(bad).unwrap_err();
            assert!(message.starts_with("f:1: ssl.key.pem: this is no PEM") && !message.contains("hunter2"));
        }
    }
}
