//! What the system lets the process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files and connections that are open at a time at least: the runtime's own, standard streams, some connections, some objects.
const OPEN_FILES: u64 = 32;

/// Takes as many file descriptors as are allowed. The error says that too few are.
pub fn open_files() -> Result<(), String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Some systems allow less than they say; then what there is has to do.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    match getrlimit(Resource::Nofile).current {
        Some(allowed) if allowed < OPEN_FILES => Err(format!(
            "too few open files are allowed ({allowed}): at least {OPEN_FILES} are needed (ulimit -n)"
        )),
        _ => Ok(()),
    }
}

/// Address space, bytes: buffers, stacks and what the allocator sets aside for each thread. With less the runtime may end without a word at
/// a thread that it cannot start.
const ADDRESS_SPACE: u64 = 256 << 20;

/// The error says that there is too little memory to be had.
pub fn address_space() -> Result<(), String> {
    match getrlimit(Resource::As).current {
        Some(allowed) if allowed < ADDRESS_SPACE => Err(format!(
            "too little memory is allowed ({} MiB): at least {} MiB of addresses are needed (ulimit -v)",
            allowed >> 20,
            ADDRESS_SPACE >> 20
        )),
        _ => Ok(()),
    }
}
