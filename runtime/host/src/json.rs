//! State as files of JSON. Every error names its file.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fs::{self, FileError};

/// Reads a file; None: it does not exist.
///
/// # Errors
/// It cannot be read (the source is an [`io::Error`]), or is not the JSON of a `T` (it is a [`serde_json::Error`]).
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(FileError::of("read", path))?,
    };
    serde_json::from_slice(&text).map(Some).map_err(FileError::of("read", path))
}

/// Reads a file of this name in every entry of a directory, in order; None: it does not exist or cannot be read.
///
/// # Errors
/// The directory cannot be listed.
pub fn read_each<T: DeserializeOwned>(directory: &Path, name: &str) -> Result<Vec<(PathBuf, Option<T>)>, FileError> {
    let each = |path: PathBuf| {
        let value = read(&path.join(name)).ok().flatten();
        (path, value)
    };
    Ok(fs::entries(directory)?.into_iter().map(each).collect())
}

/// Writes a file of mode 0600 by [`fs::replace`].
///
/// # Errors
/// It cannot be written.
pub fn replace<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<(), FileError> {
    let text = serde_json::to_vec(value).map_err(FileError::of("write", path))?;
    fs::replace(path, &text, 0o600).map_err(FileError::of("write", path))
}

#[cfg(test)]
mod tests {
    use super::{read, read_each, replace};

    #[test]
    fn a_file_is_read_back_and_an_error_names_it() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a.json");
        assert_eq!(read::<u8>(&path).unwrap(), None);
        replace(&path, &3).unwrap();
        assert_eq!(read::<u8>(&path).unwrap(), Some(3));
        let error = read::<String>(&path).unwrap_err();
        assert!(error.to_string().ends_with("/a.json") && error.source.is::<serde_json::Error>(), "{error}");
        assert!(read::<u8>(scratch.path()).unwrap_err().source.is::<std::io::Error>());
    }

    #[test]
    fn each_directory_has_its_value_or_none() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(read_each::<u8>(&scratch.path().join("none"), "n").unwrap().is_empty());
        for (name, text) in [("b", "2"), ("a", "1"), ("c", "{")] {
            std::fs::create_dir(scratch.path().join(name)).unwrap();
            std::fs::write(scratch.path().join(name).join("n"), text).unwrap();
        }
        std::fs::create_dir(scratch.path().join("d")).unwrap();
        let values: Vec<_> =
            read_each::<u8>(scratch.path(), "n").unwrap().into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, [Some(1), Some(2), None, None]);
    }
}
