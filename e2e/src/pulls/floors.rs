//! What a pull cannot be faster than, each part alone: fetching the layers with curl, decompressing them to nowhere with as many
//! threads as there are processors, and writing their files with tar from uncompressed archives.

use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testimage::Compression;

use super::content::Made;
use crate::process::Program;

/// Seconds of each part.
#[derive(Debug, Clone, Copy)]
pub struct Floors {
    /// Fetching.
    pub fetch: f64,
    /// Decompressing.
    pub decompress: f64,
    /// Writing.
    pub write: f64,
}

impl Floors {
    /// The slowest part.
    pub fn highest(&self) -> f64 {
        self.fetch.max(self.decompress).max(self.write)
    }
}

/// Measures the parts of one image at this address (`http://HOST/v2/NAME/blobs`).
pub fn measure(made: &Made, compression: Compression, blobs: &str, dir: &Path) -> Result<Floors> {
    let decompress = time(|| decompress_all(made, compression))?;
    Ok(Floors { fetch: fetch(made, blobs)?, decompress, write: write(made, dir)? })
}

/// Seconds that curl takes for all layers, six at a time as Cellblock.
pub fn fetch(made: &Made, blobs: &str) -> Result<f64> {
    let urls = made.image.blobs[1..]
        .iter()
        .flat_map(|blob| ["-o".to_owned(), "/dev/null".to_owned(), format!("{blobs}/{}", blob.digest)]);
    let args = ["-sf", "--parallel", "--parallel-max", "6"].map(str::to_owned).into_iter().chain(urls);
    let curl = Program::new("curl", args).timeout(Duration::from_secs(600));
    time(|| curl.run().map(drop))
}

fn time(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

fn decompress_all(made: &Made, compression: Compression) -> Result<()> {
    let threads = std::thread::available_parallelism()?.get();
    let layers = &made.image.blobs[1..];
    std::thread::scope(|scope| {
        let work = |first: usize| {
            layers.iter().zip(&made.archives).skip(first).step_by(threads).try_for_each(|(blob, tar)| -> Result<()> {
                let mut decoder: Box<dyn Read> = match compression {
                    Compression::Gzip => Box::new(flate2::bufread::GzDecoder::new(&blob.bytes[..])),
                    Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(&blob.bytes[..])?),
                    Compression::None => Box::new(&blob.bytes[..]),
                };
                let (mut buffer, mut bytes) = (vec![0; 128 << 10], 0);
                loop {
                    match decoder.read(&mut buffer)? {
                        0 => break,
                        read => bytes += read,
                    }
                }
                ensure!(bytes == tar.len(), "{bytes} of {} bytes", tar.len());
                Ok(())
            })
        };
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || work(first))).collect();
        running
            .into_iter()
            .try_for_each(|thread| -> Result<()> { thread.join().map_err(|_| io::Error::other("it panicked"))? })
    })
}

fn write(made: &Made, dir: &Path) -> Result<f64> {
    let mut seconds = 0.0;
    for (at, archive) in made.archives.iter().enumerate() {
        let (tar, into) = (dir.join("floor.tar"), dir.join(format!("floor-{at}")));
        std::fs::write(&tar, archive)?;
        std::fs::create_dir_all(&into)?;
        let args = ["-xf".as_ref(), tar.as_os_str(), "-C".as_ref(), into.as_os_str()];
        seconds += time(|| Program::new("tar", args).run().map(drop))?;
        std::fs::remove_dir_all(&into)?;
        std::fs::remove_file(&tar)?;
    }
    Ok(seconds)
}
