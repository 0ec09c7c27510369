//! The Java side: prerequisites, and the compiled workbench program.

use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::jars::Kafka;
use crate::paths;

const OLDEST_JAVA: u32 = 17;

/// The workbench program, compiled once for each state of its source and each Kafka version.
const SOURCES: [(&str, &str); 13] = [
    ("Access.java", include_str!("../java/workbench/Access.java")),
    ("ClusterAdmin.java", include_str!("../java/workbench/ClusterAdmin.java")),
    ("Consumers.java", include_str!("../java/workbench/Consumers.java")),
    ("Generator.java", include_str!("../java/workbench/Generator.java")),
    ("Main.java", include_str!("../java/workbench/Main.java")),
    ("Producers.java", include_str!("../java/workbench/Producers.java")),
    ("Reader.java", include_str!("../java/workbench/Reader.java")),
    ("RecordDigest.java", include_str!("../java/workbench/RecordDigest.java")),
    ("RecordLines.java", include_str!("../java/workbench/RecordLines.java")),
    ("Segments.java", include_str!("../java/workbench/Segments.java")),
    ("Topics.java", include_str!("../java/workbench/Topics.java")),
    ("Verbs.java", include_str!("../java/workbench/Verbs.java")),
    ("Waits.java", include_str!("../java/workbench/Waits.java")),
];

/// Checks once per process that a Java of a sufficient version runs.
pub(crate) fn check_java() -> Result<()> {
    static CHECKED: OnceLock<Result<(), String>> = OnceLock::new();
    let checked = CHECKED.get_or_init(|| java_version().map(|_| ()).map_err(|e| format!("{e:#}")));
    checked.clone().map_err(anyhow::Error::msg)
}

fn java_version() -> Result<u32> {
    let advice = format!("install a JDK {OLDEST_JAVA} or newer (on Debian: openjdk-17-jdk-headless)");
    let out = Command::new("java").arg("-version").stdin(Stdio::null()).output();
    let out = out.with_context(|| format!("java is missing: {advice}"))?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let quoted = text.split('"').nth(1).unwrap_or_default();
    let major = quoted.split(['.', '-', '+']).next().and_then(|v| v.parse().ok()).unwrap_or(0);
    if major < OLDEST_JAVA {
        bail!("java is version {quoted:?}: {advice}");
    }
    Ok(major)
}

/// Runs a tool to its end; a missing tool or a failure gives one error that says what to do.
pub(crate) fn run_tool(tool: &str, args: &[&OsStr], advice: &str) -> Result<()> {
    let out = Command::new(tool).args(args).stdin(Stdio::null()).output();
    let out = out.with_context(|| format!("{tool} is missing: {advice}"))?;
    if !out.status.success() {
        let text = [out.stdout, out.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).take(30).collect();
        bail!("{tool} failed ({}):\n{}", out.status, lines.join("\n"));
    }
    Ok(())
}

/// The folder of the compiled workbench classes; compiles them when they are not there.
pub(crate) fn workbench_classes(kafka: &Kafka) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (SOURCES, kafka.version()).hash(&mut hasher);
    let dir = paths::testbed_dir().join("classes").join(format!("{:016x}", hasher.finish()));
    paths::once(&dir, |staging| {
        check_java()?;
        let sources = staging.join("source");
        fs::create_dir_all(&sources)?;
        let mut args = vec!["-encoding".into(), "UTF-8".into(), "-d".into(), staging.as_os_str().to_owned()];
        args.extend(["-cp".into(), kafka.classpath().into()]);
        for (name, text) in SOURCES {
            fs::write(sources.join(name), text)?;
            args.push(sources.join(name).into_os_string());
        }
        let args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
        run_tool("javac", &args, "install a full JDK 17 or newer (on Debian: openjdk-17-jdk-headless)")
    })?;
    Ok(dir)
}
