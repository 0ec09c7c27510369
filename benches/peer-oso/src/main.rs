//! `peer-oso CONFIG.yaml`: what the crate's own README shows for a backup and for a restore.

use anyhow::{Context, Result};
use kafka_backup_core::backup::BackupEngine;
use kafka_backup_core::config::Mode;
use kafka_backup_core::{Config, RestoreEngine};

fn main() -> Result<()> {
    let file = std::env::args().nth(1).context("usage: peer-oso CONFIG.yaml")?;
    let config: Config = serde_yaml::from_str(&std::fs::read_to_string(&file)?)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        match config.mode {
            Mode::Backup => BackupEngine::new(config).await?.run().await?,
            Mode::Restore => {
                RestoreEngine::new(config)?.run().await?;
            }
        }
        Ok(())
    })
}
