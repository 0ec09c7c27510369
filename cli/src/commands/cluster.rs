//! From flags, files and variables to a cluster.

use std::sync::Arc;

use bodley_io::kafka::{Address, ClientOptions, Cluster};

use super::usage;
use crate::args::{ClusterArg, Common, Interval, OutputFormat};
use crate::client::{self, ClientSettings, Env, Ready};
use crate::ended::Ended;
use crate::output;

/// Where a cluster is and how to get in.
pub struct Way {
    /// Brokers to ask first.
    pub bootstrap: Vec<Address>,
    /// How.
    pub ready: Ready,
    /// About the settings, where a report is to hold them.
    pub notes: Vec<String>,
}

/// Connects. Notes about settings are printed; where a report is to hold them they come back.
pub async fn open_cluster(
    arg: &ClusterArg,
    common: &Common,
) -> Result<(Arc<Cluster>, Vec<String>), Box<Ended>> {
    let Way { bootstrap, ready, notes } = way(arg, common)?;
    Ok((Cluster::open(bootstrap, ready.options).await?, notes))
}

/// Reads everything that is said of the way to a cluster.
pub fn way(arg: &ClusterArg, common: &Common) -> Result<Way, Box<Ended>> {
    let env = |name: &str| std::env::var(name).ok();
    let mut settings = settings(arg, common, &env).map_err(usage)?;
    let bootstrap = bootstrap(arg, &settings).map_err(usage)?;
    let notes = std::mem::take(&mut settings.notes);
    let ready = client::connect_options(settings).map_err(|e| usage(e.to_string()))?;
    if !common.quiet {
        notes.iter().for_each(|note| output::print_note(note));
    }
    let Interval(give_up_after) = arg.give_up_after;
    let options = ClientOptions {
        // Whoever gives up early does not wait longer for a single answer.
        connect_timeout: ready.options.connect_timeout.min(give_up_after),
        request_timeout: ready.options.request_timeout.min(give_up_after),
        give_up_after,
        ..ready.options
    };
    let notes = if common.output == OutputFormat::Json { notes } else { Vec::new() };
    Ok(Way { bootstrap, ready: Ready { options, ..ready }, notes })
}

/// What the files and variables say. Later ones win: --command-config, the cluster's properties, BODLEY_*.
fn settings(arg: &ClusterArg, common: &Common, env: Env<'_>) -> Result<ClientSettings, String> {
    let named = arg.cluster.as_deref().map(|name| common.clusters.named(name, env)).transpose()?;
    let (beside, properties) = named.map(|named| (named.command_config, named.layer)).unwrap_or_default();
    let file = arg.command_config.clone().or(beside);
    let file = file.map(|path| client::read_properties(&path, env)).transpose().map_err(|e| e.to_string())?;
    let layers = [file.unwrap_or_default(), properties, client::environment(env)];
    client::settings(&layers).map_err(|e| e.to_string())
}

fn bootstrap(arg: &ClusterArg, settings: &ClientSettings) -> Result<Vec<Address>, String> {
    match (&arg.bootstrap_server, &settings.bootstrap) {
        (Some(list), _) => Address::parse_list(list).map_err(|e| e.to_string()),
        (None, Some(list)) => Address::parse_list(list).map_err(|e| format!("bootstrap.servers: {e}")),
        (None, None) => {
            Err("no brokers are named: say -b HOST:PORT, or --command-config FILE with bootstrap.servers, \
             or --cluster NAME with a --config FILE"
                .to_owned())
        }
    }
}
