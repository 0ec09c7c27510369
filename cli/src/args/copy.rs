//! `bodley copy`

use clap::Args as ClapArgs;

use super::{Rate, ToVaultArg, VaultArg, WritersArg};

pub const EXAMPLES: &str = "\
Object by object, each checked on the way; a commit is copied when all that it names is there, so the copy is a valid vault at every
moment. A copy that was cut is simply run again; running it later takes over what is new. Damage of the source ends the copy before
the commit that it is in: exit 3. A target that holds anything but the beginning of the same vault is refused: exit 2.

Examples:
  bodley copy --vault /backups/prod --to-vault /mnt/usb/prod
  bodley copy --vault /backups/prod --to-vault s3://backups/prod --to-vault-option region=eu-west-1
  bodley copy --vault s3://backups/prod --to-vault /mnt/usb/prod --limit-read 50M";

/// `bodley copy`
#[derive(Debug, ClapArgs)]
pub struct CopyVault {
    #[command(flatten)]
    pub vault: VaultArg,
    #[command(flatten)]
    pub to: ToVaultArg,
    /// Read at most so many bytes per second from the vault (K, M, G: powers of 1024)
    #[arg(long, value_name = "BYTES/S")]
    pub limit_read: Option<Rate>,
    /// Write at most so many bytes per second to the copy
    #[arg(long, value_name = "BYTES/S")]
    pub limit_write: Option<Rate>,
    #[command(flatten)]
    pub writers: WritersArg,
}
