//! `bodley copy`

use clap::Args as ClapArgs;

use super::VaultsArg;

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
    pub vaults: VaultsArg,
}
