//! A vault on disk, looked at from outside.

use std::path::Path;

use super::model::Objects;

/// The vault's objects as files, without the unfinished.
pub fn objects(root: &Path) -> Objects {
    let mut objects = Objects::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().map(Result::unwrap) {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !name.contains(".tmp-") {
                objects.insert(name, std::fs::read(&path).unwrap().into());
            }
        }
    }
    objects
}
