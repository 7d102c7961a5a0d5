//! Compares pulls with containerd: the same images from the same registry, in turn, so that other load affects both. Cold: nothing
//! of the image is there; warm: everything is. Where there is no containerd (FreeBSD), they are compared with pulls by hand.

pub mod by_hand;
pub mod content;
pub mod floors;
pub mod meter;
pub mod shaped;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use proto::v1::{ImageSpec, RemoveImageRequest};
use testimage::{Contents, Image};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use self::floors::Floors;
use crate::client::Client;
use crate::process::Program;

/// Images that are pulled at a time.
const AT_ONCE: [usize; 2] = [1, 4];
/// The least ratio of containerd's time to ours for a cold pull on loopback.
const LEAST: f64 = 1.5;
/// Odd images for the figure of memory.
const ODD: u64 = 154;
/// How long memory may take to be given back.
const SETTLE: Duration = Duration::from_secs(5);

/// How the benchmark runs.
#[derive(Args, Debug, Clone, Default)]
pub struct Plan {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Divides the bytes of each layer, to see whether the benchmark works.
    #[arg(long, default_value_t = 1)]
    pub scale: u64,
    /// Runs only cases whose name contains this.
    #[arg(long)]
    pub only: Option<String>,
    /// Compares with fetch(1) and tar(1) by hand instead of containerd, without docker-registry: for FreeBSD.
    #[arg(long)]
    pub by_hand: bool,
    /// Puts roots of containers on ZFS, below this dataset, and what is pulled by hand into datasets there.
    #[arg(long, value_name = "DATASET", requires = "by_hand")]
    pub zfs: Option<String>,
    /// Keeps the directory of the run, with its logs.
    #[arg(long, requires = "by_hand")]
    pub keep: bool,
}

/// A server to measure.
pub struct Subject {
    /// Its client.
    pub client: Client,
    /// Its process.
    pub pid: u32,
}

/// What both have.
pub struct Ground<'a> {
    /// The directory of the `HOST/hosts.toml` files.
    pub certs: &'a Path,
    /// A directory for files.
    pub dir: &'a Path,
    /// Where the registry runs. It is in this process and in memory: one that is a program of its own takes as much of the processors as
    /// a server that pulls from it, on what is another machine everywhere else.
    pub tokio: &'a Runtime,
}

/// The host names that lead to the registry, without and with the line's limits.
const LOOPBACK: &str = "loopback.example";
const SHAPED: &str = "shaped.example";
/// The repository of the images; their tags are numbers.
const REPOSITORY: &str = "bench";

impl Ground<'_> {
    /// Serves under a host name until the second value is dropped; the address.
    fn serve(&self, host: &str, listener: TcpListener, contents: Contents) -> Result<(SocketAddr, JoinSet<()>)> {
        let address = listener.local_addr()?;
        let of = self.certs.join(host);
        std::fs::create_dir_all(&of)?;
        std::fs::write(of.join("hosts.toml"), format!("server = \"http://{address}\"\n"))?;
        listener.set_nonblocking(true)?;
        let _runtime = self.tokio.enter();
        Ok((address, testimage::serve_on(tokio::net::TcpListener::from_std(listener)?, contents)))
    }
}

/// Tags images by their numbers.
fn contents<'a>(images: impl Iterator<Item = &'a Image>) -> Contents {
    let mut contents = Contents::new(REPOSITORY);
    for (at, image) in images.enumerate() {
        contents.add(image);
        contents.tag(&at.to_string(), &image.manifest);
    }
    contents
}

/// Seconds of the rounds of one server.
#[derive(Default)]
struct Measured {
    cold: Vec<f64>,
    warm: Vec<f64>,
    processor: Vec<f64>,
    memory: f64,
}

impl Subject {
    fn pull(&self, names: &[String]) -> Result<f64> {
        let start = Instant::now();
        side_by_side(names, |name| self.client.pull(name).with_context(|| format!("cannot pull {name}")))?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn remove(&self, name: &str) -> Result<()> {
        let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
        self.client.call(self.client.image().remove_image(RemoveImageRequest { image }))?;
        Ok(())
    }

    /// One round: cold, warm, and away.
    fn round(&self, names: &[String], measured: &mut Measured) -> Result<()> {
        let before = meter::processor_seconds(self.pid);
        measured.cold.push(self.pull(names)?);
        measured.processor.push(meter::processor_seconds(self.pid) - before);
        measured.warm.push(self.pull(names)?);
        self.remove_all(names)
    }

    /// A round that nobody times: the highest memory of a cold pull.
    fn memory(&self, names: &[String]) -> Result<f64> {
        let memory = meter::highest_mib(self.pid, || self.pull(names))?;
        self.remove_all(names)?;
        Ok(memory)
    }

    fn remove_all(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| self.remove(name))
    }
}

/// Drops the caches, and with them the inodes of removed files, each of which an ext4 without a journal looks at for a minute before
/// it makes a file (`recently_deleted` in fs/ext4/ialloc.c).
fn forget_removed() -> Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the caches")
}

/// Measures both servers, prints the ratios, and fails if a cold pull on loopback is not fast enough.
pub fn compare(ours: &Subject, theirs: &Subject, ground: &Ground<'_>, plan: &Plan) -> Result<()> {
    let line = shaped::Line::lay();
    match &line {
        Ok(line) => println!("a second registry is behind a line of {}", line.what),
        Err(error) => println!("no line can be shaped here, loopback only: {error:#}"),
    }
    println!(
        "case | cold, s: Cellblock, containerd, ratio | warm | processor, s | of the parts | memory, MiB | over the floor"
    );
    println!("---|---|---|---|---|---|---");
    let mut slow = Vec::new();
    for case in content::cases(plan.scale, plan.only.as_deref()) {
        let images = content::images(&case, AT_ONCE[1])?;
        let contents = contents(images.iter().map(|made| &made.image));
        let loopback = ground.serve(LOOPBACK, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, contents.clone())?;
        let shaped =
            line.as_ref().ok().map(|line| ground.serve(SHAPED, line.listen()?, contents.clone())).transpose()?;
        let floors = floors::measure(&images[0], case.compression, &blobs(loopback.0), ground.dir)?;
        let wire = shaped.as_ref().map(|(address, _)| floors::fetch(&images[0], &blobs(*address))).transpose()?;
        drop((images, contents));
        for host in [LOOPBACK, SHAPED].into_iter().take(if wire.is_some() { 2 } else { 1 }) {
            for at_once in AT_ONCE {
                let names: Vec<String> = (0..at_once).map(|at| format!("{host}/{REPOSITORY}:{at}")).collect();
                let mut both = [Measured::default(), Measured::default()];
                in_turn(plan.rounds, |at| {
                    forget_removed()?;
                    [ours, theirs][at].round(&names, &mut both[at])
                })?;
                for (subject, measured) in [ours, theirs].into_iter().zip(&mut both) {
                    measured.memory = subject.memory(&names)?;
                }
                let floors = match wire.filter(|_| host == SHAPED) {
                    Some(fetch) => Floors { fetch, ..floors },
                    None => floors,
                };
                let ratio = print(&format!("{}, {at_once} at a time, {host}", case.name), &both, floors, at_once);
                if host == LOOPBACK && ratio < LEAST {
                    slow.push(format!("{}, {at_once} at a time: {ratio:.2}", case.name));
                }
            }
        }
    }
    odd_images([ours, theirs], ground, plan)?;
    ensure!(slow.is_empty(), "cold pulls below {LEAST} times containerd's speed: {}", slow.join("; "));
    Ok(())
}

fn blobs(registry: SocketAddr) -> String {
    format!("http://{registry}/v2/{REPOSITORY}/blobs")
}

/// Runs the rounds of both, by their numbers: each is the first as often as the second.
fn in_turn(rounds: usize, mut run: impl FnMut(usize) -> Result<()>) -> Result<()> {
    for round in 0..rounds {
        for at in [round % 2, (round + 1) % 2] {
            // What an earlier round has left for the disk is not this one's.
            Program::new("sync", [""; 0]).run()?;
            run(at)?;
        }
    }
    Ok(())
}

/// Does the same with each, all at a time.
fn side_by_side<T: Sync, R: Send>(of: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = of.iter().map(|one| scope.spawn(|| work(one))).collect();
        running.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a pull panicked"))?).collect()
    })
}

/// The middle of some values; of an even number the upper one.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A column of the table: both medians and their ratio.
fn column(ours: &[f64], theirs: &[f64]) -> String {
    let (ours, theirs) = (median(ours), median(theirs));
    format!("{ours:.3}, {theirs:.3}, {:.2}", theirs / ours)
}

/// Prints a line of the table and returns the ratio of cold pulls.
fn print(case: &str, [ours, theirs]: &[Measured; 2], floors: Floors, at_once: usize) -> f64 {
    let columns = [(&ours.cold, &theirs.cold), (&ours.warm, &theirs.warm), (&ours.processor, &theirs.processor)];
    let columns = columns.map(|(ours, theirs)| column(ours, theirs));
    let Floors { fetch, decompress, write, processor } = floors;
    let parts = column(&[processor * at_once as f64], &theirs.processor);
    let over = if at_once == 1 {
        let over = median(&ours.cold) / floors.highest();
        format!("{over:.2} (curl {fetch:.2}, decompress {decompress:.2}, write {write:.2})")
    } else {
        String::new()
    };
    println!("{case} | {} | {parts} | {:.0}, {:.0} | {over}", columns.join(" | "), ours.memory, theirs.memory);
    median(&theirs.cold) / median(&ours.cold)
}

/// The memory of both after many odd images, and after all were removed.
fn odd_images(subjects: [&Subject; 2], ground: &Ground<'_>, plan: &Plan) -> Result<()> {
    let count = ODD / plan.scale.clamp(1, ODD);
    let images = (0..count).map(content::odd).collect::<Result<Vec<_>>>()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let _serving = ground.serve(LOOPBACK, listener, contents(images.iter()))?;
    let names: Vec<String> = (0..count).map(|at| format!("{LOOPBACK}/{REPOSITORY}:{at}")).collect();
    for (subject, name) in subjects.into_iter().zip(["Cellblock", "containerd"]) {
        let mib = || {
            std::thread::sleep(SETTLE);
            meter::anonymous_kib(subject.pid) / 1024
        };
        let before = mib();
        for several in names.chunks(AT_ONCE[1]) {
            subject.pull(several)?;
        }
        let pulled = mib();
        subject.remove_all(&names)?;
        println!("{name}: {before} MiB, after {count} odd images {pulled}, after removing them {}", mib());
    }
    Ok(())
}
