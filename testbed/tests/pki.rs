//! Certificates, keys and stores are what they say, by the judgement of openssl and keytool.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use std::path::Path;
use std::process::Command;

use bodley_testbed::Pki;
use bodley_testbed::pki::{KEY_PASSWORD, KeyForm, Leaf, PASSWORD, Store};

fn output(tool: &str, args: &[&str]) -> (bool, String) {
    let out = Command::new(tool).args(args).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn certificates_are_as_good_and_as_bad_as_they_say() {
    let pki = Pki::ensure().unwrap();
    for leaf in Leaf::ALL {
        let (ca, cert) = (pki.ca(), pki.cert(leaf));
        let mut args = vec!["verify", "-CAfile", text(&ca), "-untrusted", text(&cert)];
        let server = matches!(leaf, Leaf::Server | Leaf::ServerRsa | Leaf::WrongHost);
        if server {
            args.extend(["-purpose", "sslserver", "-verify_hostname", "localhost"]);
        }
        args.push(text(&cert));
        let (good, says) = output("openssl", &args);
        let complaint = match leaf {
            Leaf::Expired | Leaf::ExpiredClient => "certificate has expired",
            Leaf::WrongHost => "ostname mismatch",
            Leaf::UnknownCa | Leaf::Stranger => "unable to get local issuer certificate",
            _ => "",
        };
        assert_eq!(good, complaint.is_empty(), "{leaf:?}: {says}");
        assert!(says.contains(complaint), "{leaf:?}: {says}");
    }
}

#[test]
fn keys_come_in_every_form() {
    let pki = Pki::ensure().unwrap();
    for form in KeyForm::ALL {
        let pem = std::fs::read_to_string(pki.key_form(form)).unwrap();
        let head = match form {
            KeyForm::Pkcs1 => "-----BEGIN RSA PRIVATE KEY-----\nMI",
            KeyForm::Sec1 => "-----BEGIN EC PRIVATE KEY-----\nMH",
            KeyForm::TraditionalEncryptedRsa => "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
            KeyForm::TraditionalEncryptedEc => "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
            _ => "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
        };
        assert!(pem.starts_with(head), "{form:?}: {pem}");
        let (file, pass) = (pki.key_form(form), format!("pass:{PASSWORD}"));
        let public = |path: &Path| {
            let (good, says) = output("openssl", &["pkey", "-pubout", "-passin", &pass, "-in", text(path)]);
            assert!(good, "{form:?}: {says}");
            says
        };
        assert_eq!(public(&file), public(&pki.key(form.leaf())), "{form:?}");
    }
}

#[test]
fn stores_open_with_their_password_only() {
    let pki = Pki::ensure().unwrap();
    for store in Store::ALL {
        let file = pki.store(store);
        let list = |pass: &str| {
            output(
                "keytool",
                &["-list", "-keystore", text(&file), "-storetype", store.kind(), "-storepass", pass],
            )
        };
        let entry = match store {
            Store::TrustPkcs12 | Store::TrustJks => "trustedCertEntry",
            Store::TrustOpenssl => "contains 0 entries",
            _ => "PrivateKeyEntry",
        };
        let (good, says) = list(PASSWORD);
        assert!(good && says.contains(entry), "{store:?}: {says}");
    }
    let jks = pki.store(Store::KeyJks);
    let password = |new: &str| {
        let copy = pki.dir().with_extension("copy.jks");
        std::fs::copy(&jks, &copy).unwrap();
        let args = ["-keypasswd", "-alias", "testbed", "-storepass", PASSWORD, "-keypass", new];
        let done = output("keytool", &[&args[..], &["-new", "changed", "-keystore", text(&copy)]].concat());
        std::fs::remove_file(copy).unwrap();
        done.0
    };
    assert!(password(KEY_PASSWORD) && !password(PASSWORD));
}
