//! What a pull cannot be faster than, each part alone: fetching the layers with curl, decompressing them to nowhere with as many
//! threads as there are processors, and writing their files with tar from uncompressed archives. And the processor time of these and
//! of hashing the layers twice, compressed and not: what usual programs and libraries take for the same work.

use std::hint::black_box;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use sha2::{Digest as _, Sha256};
use testimage::Compression;

use super::content::Made;
use crate::process::Program;

/// Seconds of each part, and processor time.
#[derive(Debug, Clone, Copy)]
pub struct Floors {
    /// Fetching.
    pub fetch: f64,
    /// Decompressing.
    pub decompress: f64,
    /// Writing.
    pub write: f64,
    /// Processor time of all parts, and of hashing.
    pub processor: f64,
}

/// What something takes, in seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    seconds: f64,
    /// Of this thread and of programs that it waits for.
    processor: f64,
}

impl Floors {
    /// The slowest part.
    pub fn highest(&self) -> f64 {
        self.fetch.max(self.decompress).max(self.write)
    }
}

/// Measures the parts of one image at this address (`http://HOST/v2/NAME/blobs`).
pub fn measure(made: &Made, compression: Compression, blobs: &str, dir: &Path) -> Result<Floors> {
    let threads = std::thread::available_parallelism()?.get();
    let decompress = cost(|| decompress_all(made, compression, threads))?;
    let (fetch, write) = (fetch_all(made, blobs)?, write(made, dir)?);
    let alone = cost(|| {
        made.image.blobs[1..].iter().try_for_each(|blob| decompress_to_nowhere(&blob.bytes, compression).map(drop))
    })?;
    let hash = cost(|| {
        let compressed = made.image.blobs[1..].iter().map(|blob| &blob.bytes[..]);
        for bytes in compressed.chain(made.archives.iter().map(Vec::as_slice)) {
            black_box(Sha256::digest(bytes));
        }
        Ok(())
    })?;
    let processor = [fetch, alone, write, hash].iter().map(|part| part.processor).sum();
    Ok(Floors { fetch: fetch.seconds, decompress: decompress.seconds, write: write.seconds, processor })
}

/// Seconds that curl takes for all layers, six at a time as Cellblock.
pub fn fetch(made: &Made, blobs: &str) -> Result<f64> {
    Ok(fetch_all(made, blobs)?.seconds)
}

fn fetch_all(made: &Made, blobs: &str) -> Result<Cost> {
    let urls = made.image.blobs[1..]
        .iter()
        .flat_map(|blob| ["-o".to_owned(), "/dev/null".to_owned(), format!("{blobs}/{}", blob.digest)]);
    let args = ["-sf", "--parallel", "--parallel-max", "6"].map(str::to_owned).into_iter().chain(urls);
    let curl = Program::new("curl", args).timeout(Duration::from_secs(600));
    cost(|| curl.run().map(drop))
}

fn cost(work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let (start, spent) = (Instant::now(), spent()?);
    work()?;
    Ok(Cost { seconds: start.elapsed().as_secs_f64(), processor: self::spent()? - spent })
}

/// Processor seconds of this thread and of the programs that this process has waited for.
fn spent() -> Result<f64> {
    let mut seconds = 0.0;
    for counted in [UsageWho::RUSAGE_THREAD, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(counted)?;
        for time in [usage.user_time(), usage.system_time()] {
            // Exact below 2^53.
            seconds += time.num_microseconds() as f64 / 1e6;
        }
    }
    Ok(seconds)
}

fn decompress_all(made: &Made, compression: Compression, threads: usize) -> Result<()> {
    let layers = &made.image.blobs[1..];
    std::thread::scope(|scope| {
        let work = |first: usize| {
            layers.iter().zip(&made.archives).skip(first).step_by(threads).try_for_each(|(blob, tar)| -> Result<()> {
                let bytes = decompress_to_nowhere(&blob.bytes, compression)?;
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

/// Decompresses a layer; its bytes.
fn decompress_to_nowhere(layer: &[u8], compression: Compression) -> Result<usize> {
    let mut decoder: Box<dyn Read> = match compression {
        Compression::Gzip => Box::new(flate2::bufread::GzDecoder::new(layer)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(layer)?),
        Compression::None => Box::new(layer),
    };
    let (mut buffer, mut bytes) = (vec![0; 128 << 10], 0);
    loop {
        match decoder.read(&mut buffer)? {
            0 => return Ok(bytes),
            read => bytes += read,
        }
    }
}

fn write(made: &Made, dir: &Path) -> Result<Cost> {
    let mut total = Cost::default();
    for (at, archive) in made.archives.iter().enumerate() {
        let (tar, into) = (dir.join("floor.tar"), dir.join(format!("floor-{at}")));
        std::fs::write(&tar, archive)?;
        std::fs::create_dir_all(&into)?;
        let args = ["-xf".as_ref(), tar.as_os_str(), "-C".as_ref(), into.as_os_str()];
        let one = cost(|| Program::new("tar", args).run().map(drop))?;
        total = Cost { seconds: total.seconds + one.seconds, processor: total.processor + one.processor };
        std::fs::remove_dir_all(&into)?;
        std::fs::remove_file(&tar)?;
    }
    Ok(total)
}
