//! Transfers between two of ten thousand accounts, each durable before it is answered: the ledger on the local store beside PostgreSQL,
//! in turns in one run.
//!
//! PostgreSQL does the same in one function and so in one transaction, called by `pgbench` with 8 clients: the id with a unique key, two
//! accounts locked in order and changed, a row of the journal and two of entries. Its settings are its own. It is started in a
//! directory of its own, on a socket in there, and needs `initdb`, `postgres`, `pgbench` and `psql` (Debian: `postgresql`).
#![allow(missing_docs, clippy::unwrap_used)]

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt as _;
use sysd_ledger::{
    Account, AccountId, AccountKind, Books, Currency, JournalConfig, Ledger, Reply, Transaction, TransactionId,
};
use sysd_storage::{LocalStore, Replica, ReplicaConfig};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(4);
const ACCOUNTS: u64 = 10_000;
const BATCH: usize = 8_189;

type OnDisk = Ledger<Replica<Books>, LocalStore>;

const SCHEMA: &str = "
CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO account SELECT id, 0 FROM generate_series(0, 9999) AS id;
CREATE TABLE journal (number bigserial PRIMARY KEY, id uuid NOT NULL UNIQUE, recorded_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE entry (number bigint NOT NULL, account bigint NOT NULL, amount bigint NOT NULL, balance bigint NOT NULL);
CREATE FUNCTION transfer(transfer_id uuid, debit bigint, credit bigint, moved bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE taken bigint; debited bigint; credited bigint;
BEGIN
    INSERT INTO journal (id) VALUES (transfer_id) ON CONFLICT (id) DO NOTHING RETURNING number INTO taken;
    IF taken IS NULL THEN RETURN NULL; END IF;
    PERFORM 1 FROM account WHERE id IN (debit, credit) ORDER BY id FOR UPDATE;
    UPDATE account SET balance = balance - moved WHERE id = debit RETURNING balance INTO debited;
    UPDATE account SET balance = balance + moved WHERE id = credit RETURNING balance INTO credited;
    INSERT INTO entry VALUES (taken, debit, -moved, debited), (taken, credit, moved, credited);
    RETURN taken;
END $$;
";

const SCRIPT: &str = "
\\set debit random(0, 4999)
\\set credit random(5000, 9999)
SELECT transfer(gen_random_uuid(), :debit, :credit, 7);
";

/// A PostgreSQL that ends with this.
struct Postgres {
    programs: PathBuf,
    directory: PathBuf,
    /// It refuses to be run by the superuser.
    user: Option<[u32; 2]>,
    server: Child,
}

fn id_of(user: &str, kind: &str) -> Option<u32> {
    let out = Command::new("id").args([kind, user]).output().ok()?;
    String::from_utf8_lossy(&out.stdout).trim().parse().ok()
}

fn programs() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&paths).chain(debian.map(|version| version.path().join("bin")));
    let has_all = |path: &PathBuf| ["initdb", "postgres"].iter().all(|program| path.join(program).exists());
    all.into_iter().find(has_all)
}

impl Postgres {
    fn start(directory: &Path) -> Option<Self> {
        let programs = programs()?;
        let user = match Command::new("id").arg("-u").output().ok()?.stdout.as_slice() {
            b"0\n" => Some([id_of("postgres", "-u")?, id_of("postgres", "-g")?]),
            _ => None,
        };
        std::fs::create_dir_all(directory).unwrap();
        if let Some([user, group]) = user {
            std::os::unix::fs::chown(directory, Some(user), Some(group)).unwrap();
        }
        let data = directory.join("data");
        let made = run(user, programs.join("initdb")).arg("-A").arg("trust").arg("-D").arg(&data).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = run(user, programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c"])
            .arg(format!("unix_socket_directories={}", directory.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let postgres = Self { programs, directory: directory.to_owned(), user, server };
        let start = Instant::now();
        while !postgres.psql("SELECT 1").status().unwrap().success() {
            assert!(start.elapsed() < Duration::from_secs(60), "PostgreSQL does not come up");
            std::thread::sleep(Duration::from_millis(200));
        }
        let made = postgres.psql(SCHEMA).args(["-v", "ON_ERROR_STOP=1"]).status().unwrap();
        assert!(made.success());
        std::fs::write(directory.join("transfer.sql"), SCRIPT).unwrap();
        Some(postgres)
    }

    fn psql(&self, sql: &str) -> Command {
        let mut psql = run(self.user, self.program("psql"));
        psql.arg("-qh").arg(&self.directory).args(["-d", "postgres", "-c", sql]);
        psql.stdout(Stdio::null()).stderr(Stdio::null());
        psql
    }

    fn program(&self, name: &str) -> PathBuf {
        let here = self.programs.join(name);
        if here.exists() { here } else { name.into() }
    }

    /// Transfers a second by 8 clients.
    fn round(&self) -> f64 {
        let mut pgbench = run(self.user, self.program("pgbench"));
        pgbench.arg("-h").arg(&self.directory).args(["-n", "-c", "8", "-j", "2", "-M", "prepared", "-T"]);
        pgbench.arg(ROUND.as_secs().to_string()).arg("-f").arg(self.directory.join("transfer.sql")).arg("postgres");
        let out = pgbench.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        rate.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&out.stderr)))
    }

    /// That it did what it says.
    fn verify(&self) {
        let check = "DO $$ BEGIN
            ASSERT (SELECT sum(balance) FROM account) = 0;
            ASSERT (SELECT count(*) FROM entry) = 2 * (SELECT count(*) FROM journal);
        END $$";
        assert!(self.psql(check).args(["-v", "ON_ERROR_STOP=1"]).status().unwrap().success());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn run(user: Option<[u32; 2]>, program: PathBuf) -> Command {
    let mut command = Command::new(program);
    if let Some([user, group]) = user {
        command.uid(user).gid(group);
    }
    command.current_dir("/");
    command
}

/// UUIDs of version 7, and two accounts for each.
#[derive(Clone, Default)]
struct Traffic(Arc<AtomicU64>);

impl Traffic {
    fn next(&self) -> Transaction {
        let count = self.0.fetch_add(1, Ordering::Relaxed);
        let mixed = |salt: u64| {
            (count ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31).wrapping_mul(0xD6E8_FEB8_6659_FD93)
        };
        let ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let chance = u128::from(mixed(1)) << 12 & ((1 << 62) - 1);
        let id = ms << 80 | 7 << 76 | 0b10 << 62 | chance | u128::from(count & 0xFFF);
        let (debit, credit) = (mixed(2) % (ACCOUNTS / 2), ACCOUNTS / 2 + mixed(3) % (ACCOUNTS / 2));
        let euro = Currency::iso("EUR").unwrap();
        Transaction::transfer(TransactionId(id), euro, 7, AccountId(credit.into()), AccountId(debit.into()))
    }
}

/// Batches, two on their way at once.
async fn batches(ledger: &OnDisk, traffic: &Traffic) -> f64 {
    let (start, mut count) = (Instant::now(), 0);
    let batch = || ledger.transact_each((0..BATCH).map(|_| traffic.next()).collect());
    let going = futures::stream::repeat_with(batch).take_while(|_| std::future::ready(start.elapsed() < ROUND));
    let mut going = std::pin::pin!(going.buffer_unordered(2));
    while let Some(replies) = going.next().await {
        let replies = replies.unwrap();
        assert!(replies.iter().all(|reply| matches!(reply, Reply::Recorded(_))));
        count += replies.len();
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// Callers with one transfer each.
async fn callers(ledger: &OnDisk, traffic: &Traffic, callers: usize) -> f64 {
    let (start, is_over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (ledger, traffic, is_over) = (ledger.clone(), traffic.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut count = 0_u64;
                while !is_over.load(Ordering::Relaxed) {
                    assert!(matches!(ledger.transact(traffic.next()).await.unwrap(), Reply::Recorded(_)));
                    count += 1;
                }
                count
            })
        })
        .collect();
    tokio::time::sleep(ROUND).await;
    is_over.store(true, Ordering::Relaxed);
    let mut count = 0;
    for task in tasks {
        count += task.await.unwrap();
    }
    count as f64 / start.elapsed().as_secs_f64()
}

fn summary(mut rates: Vec<f64>) -> (f64, f64) {
    rates.sort_by(f64::total_cmp);
    (rates[0], rates[rates.len() / 2])
}

fn main() {
    let directory = std::env::temp_dir().join(format!("sysd-versus-{}-ledger", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let postgres = Postgres::start(&directory.join("postgres"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = LocalStore::open(directory.join("ours")).await.unwrap();
        let (replica, driver) =
            Replica::<Books>::open(store.clone(), "versus", ReplicaConfig::default()).await.unwrap();
        tokio::spawn(driver);
        let (ledger, writer) = Ledger::new(replica, store, "versus", JournalConfig::default()).unwrap();
        tokio::spawn(writer);
        let euro = Currency::iso("EUR").unwrap();
        for at in 0..ACCOUNTS / 100 {
            let opened =
                (0..100).map(|id| Account::new(AccountId((100 * at + id).into()), euro, AccountKind::Liability));
            let opened = opened.map(|account| ledger.open_account(account));
            futures::future::join_all(opened)
                .await
                .into_iter()
                .for_each(|reply| assert_eq!(reply.unwrap(), Reply::Done));
        }
        let traffic = Traffic::default();
        let mut rates = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            rates[0].push(batches(&ledger, &traffic).await);
            rates[1].push(callers(&ledger, &traffic, 1_000).await);
            rates[2].push(callers(&ledger, &traffic, 8).await);
            if let Some(postgres) = &postgres {
                rates[3].push(tokio::task::block_in_place(|| postgres.round()));
            }
        }
        ledger.verify().await.unwrap();
        let peer = postgres.as_ref().map(|postgres| {
            postgres.verify();
            summary(std::mem::take(&mut rates[3]))
        });
        let rows = ["ours, batches of 8,189", "ours, 1,000 callers", "ours, 8 callers"];
        for (row, rates) in rows.into_iter().zip(rates) {
            let (min, median) = summary(rates);
            let ratio = peer.map_or(String::new(), |(_, peer)| format!("; {:.1} times PostgreSQL", median / peer));
            println!("{row:<28} min {min:.0} median {median:.0} transfers/s{ratio}");
        }
        match peer {
            Some((min, median)) => {
                println!("{:<28} min {min:.0} median {median:.0} transfers/s", "PostgreSQL, 8 clients")
            }
            None => println!("PostgreSQL is not there: install it (Debian: postgresql)"),
        }
    });
    drop(postgres);
    std::fs::remove_dir_all(&directory).unwrap();
}
