//! Pulls by hand, as an administrator of FreeBSD types them: fetch(1) for one layer of an image after the other, each into tar(1), in a
//! directory or a new dataset of ZFS. Cellblock is measured beside that, from a registry in this process. What tar cannot know of an image
//! (whiteouts, digests) is not done by hand.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testimage::Blob;

use super::content::{Case, Made};
use super::{
    AT_ONCE, Measured, Plan, REPOSITORY, Subject, blobs, column, content, contents, in_turn, median, side_by_side,
};
use crate::client::{Client, socket};
use crate::process::{Program, processor_time};
use crate::server::Site;

/// What is typed: its arguments are a directory, a dataset or nothing, and the addresses of the layers. tar(1) finds out the compression.
/// Last come the processor times of the shell and of what it ran.
const TYPED: &str = r#"set -e -o pipefail
dir=$1 dataset=$2
shift 2
if [ -n "$dataset" ]; then zfs create -o mountpoint="$dir" "$dataset"; else mkdir "$dir"; fi
for layer; do fetch -q -o - "$layer" | tar -xpf - -C "$dir"; done
times"#;
/// A directory without hosts.toml files (hier(7)): a registry on loopback needs none.
pub const NO_HOSTS: &str = "/var/empty";
/// The time-out of one image.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Where images go by hand.
struct Hand<'a> {
    /// Beside the server's root.
    dir: PathBuf,
    /// The parent of the datasets.
    zfs: Option<&'a str>,
}

/// An image under both names.
struct Offered {
    /// For Cellblock.
    name: String,
    /// The addresses of its layers.
    layers: Vec<String>,
}

/// Measures a new server beside what is typed by hand, and prints the ratios.
pub fn compare(plan: &Plan, site: &Site) -> Result<()> {
    ensure!(plan.rounds > 0, "there is no median of no rounds");
    // The registry runs in it too.
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = site.serve()?;
    let ours = Subject { client: Client::new(tokio.handle(), socket(&site.address())?), pid: server.pid() };
    let hand = Hand { dir: site.dir().join("by-hand"), zfs: plan.zfs.as_deref() };
    std::fs::create_dir_all(&hand.dir)?;
    println!("{}, medians of {}, layers of 1/{}", hand.zfs.map_or("copy", |_| "zfs"), plan.rounds, plan.scale.max(1));
    println!(
        "case | cold, s: Cellblock, by hand, ratio | warm, s: Cellblock | processor, s: Cellblock, by hand, ratio"
    );
    println!("---|---|---|---");
    let cases = content::cases(plan.scale, plan.only.as_deref());
    let measured = cases.iter().try_for_each(|case| hand.beside(&ours, case, plan, &tokio));
    server.stop()?;
    measured
}

/// Serves as many images of a case as are pulled at a time, until the second value is dropped.
async fn offer(case: &Case) -> Result<(Vec<Offered>, impl Drop)> {
    let images = content::images(case, AT_ONCE[1])?;
    let (address, serving) = testimage::serve(contents(images.iter().map(|made| &made.image))).await?;
    let url = |blob: &Blob| format!("{}/{}", blobs(address), blob.digest);
    let offered = |(at, made): (usize, &Made)| Offered {
        name: format!("{address}/{REPOSITORY}:{at}"),
        // The first blob is the configuration.
        layers: made.image.blobs[1..].iter().map(url).collect(),
    };
    Ok((images.iter().enumerate().map(offered).collect(), serving))
}

impl Hand<'_> {
    /// Measures and prints a case.
    fn beside(&self, ours: &Subject, case: &Case, plan: &Plan, tokio: &tokio::runtime::Runtime) -> Result<()> {
        let (offered, _serving) = tokio.block_on(offer(case))?;
        for at_once in AT_ONCE {
            let images = &offered[..at_once];
            let (mut cellblock, mut typed) = (Measured::default(), Measured::default());
            in_turn(plan.rounds, |at| match at {
                0 => cellblock_round(ours, images, &mut cellblock),
                _ => self.round(images, &mut typed),
            })?;
            let (cold, processor) =
                (column(&cellblock.cold, &typed.cold), column(&cellblock.processor, &typed.processor));
            println!("{}, {at_once} at a time | {cold} | {:.3} | {processor}", case.name, median(&cellblock.warm));
        }
        Ok(())
    }

    /// One round: cold, and away.
    fn round(&self, images: &[Offered], measured: &mut Measured) -> Result<()> {
        let numbered: Vec<_> = images.iter().enumerate().collect();
        let start = Instant::now();
        let processor = side_by_side(&numbered, |(at, image)| self.pull(*at, image));
        measured.cold.push(start.elapsed().as_secs_f64());
        let removed = numbered.iter().try_for_each(|(at, _)| self.remove(*at));
        measured.processor.push(processor?.iter().sum());
        removed
    }

    /// Pulls an image; its processor time in seconds.
    fn pull(&self, at: usize, image: &Offered) -> Result<f64> {
        let dir = self.place(at).display().to_string();
        let fixed =
            ["-c".to_owned(), TYPED.to_owned(), "by-hand".to_owned(), dir, self.dataset(at).unwrap_or_default()];
        let args = fixed.iter().chain(&image.layers);
        let printed = Program::new("sh", args).timeout(TIMEOUT).run()?;
        printed.split_whitespace().map(processor_time).sum()
    }

    /// Removes an image. Idempotent.
    fn remove(&self, at: usize) -> Result<()> {
        let place = self.place(at);
        if let Some(dataset) = self.dataset(at).filter(|_| place.exists()) {
            Program::new("zfs", ["destroy", &dataset]).run()?;
        }
        // zfs(8) leaves a mount point that was chosen.
        if place.exists() {
            std::fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
        }
        Ok(())
    }

    fn place(&self, at: usize) -> PathBuf {
        self.dir.join(at.to_string())
    }

    fn dataset(&self, at: usize) -> Option<String> {
        self.zfs.map(|parent| format!("{parent}/by-hand-{at}"))
    }
}

/// One round of Cellblock: cold, warm, and away. `ps -S` adds the processor times of workers that have ended.
fn cellblock_round(ours: &Subject, images: &[Offered], measured: &mut Measured) -> Result<()> {
    let names: Vec<String> = images.iter().map(|image| image.name.clone()).collect();
    let processor = || processor_time(&Program::new("ps", ["-S", "-o", "time=", "-p", &ours.pid.to_string()]).run()?);
    let before = processor()?;
    measured.cold.push(ours.pull(&names)?);
    measured.processor.push(processor()? - before);
    measured.warm.push(ours.pull(&names)?);
    names.iter().try_for_each(|name| ours.remove(name))
}
