#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use sysd_core::SeededEntropy;

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros_saturating(micros)
}

/// Pinned, as all in this test: stores have these bytes.
#[test]
fn keys_and_stored_bytes_stay() {
    let schema = Schema::new("q", 8).unwrap();
    let id = JobId::from_slice(b"i\0");
    let ticket = Ticket { lane: 1, due: at(2), id: id.clone() };
    assert_eq!(schema.head().partition.as_slice(), b"q\0\x01\0");
    assert_eq!(schema.shard(3).partition.as_slice(), b"q\0\x01\x01\0\x03");
    assert_eq!(schema.mark(&id).partition.as_slice(), b"q\0\x01\x03i\0\xff\0\x01");
    let row = schema.row(3, &ticket);
    assert_eq!(row.partition.as_slice(), b"q\0\x01\x02\0\x03");
    assert_eq!(row.sort.as_slice(), b"\x01\0\0\0\0\0\0\0\x02i\0\xff\0\x01");
    let grave = schema.grave(at(2), &id);
    assert_eq!(grave.partition.as_slice(), b"q\0\x01\x04");
    assert_eq!(grave.sort.as_slice(), b"\0\0\0\0\0\0\0\x02i\0\xff\0\x01");

    assert_eq!(encode_head(8, 2), b"\x01\0\x08\x02".as_slice());
    let job = JobRow { attempts: 5, is_marked: true, payload: "p".into() };
    assert_eq!(job.encode(), b"\x01\0\0\0\x05\x01p".as_slice());
    let mark = Mark { fate: Fate::Dead, lane: 1, due: at(2) };
    assert_eq!(mark.encode(), b"\x01\x02\x01\0\0\0\0\0\0\0\x02".as_slice());
    let letter = DeadLetter { id, at: at(2), attempts: 5, reason: "no".to_owned(), lane: 1, payload: "p".into() };
    let dead = Grave { is_marked: true, replay_at: Some(at(3)), letter };
    assert_eq!(dead.encode(), b"\x01\0\0\0\x05\x01\x01\0\0\0\0\0\0\0\x03\0\x02nop".as_slice());
    assert_eq!(Grave::REPLAYED, b"\x01".as_slice());
}

/// Pinned: who opens a queue finds its jobs where others put them.
#[test]
fn shards_stay() {
    let schema = Schema::new("q", 16).unwrap();
    let shards: Vec<_> = [b"order 1".as_slice(), b"order 2", &[0xFF; 15], &[0xFF; 16], &[0xFF; 17]]
        .into_iter()
        .map(|id| schema.shard_of(&JobId::from_slice(id)))
        .collect();
    assert_eq!(shards, [2, 8, 15, 5, 12]);
}

#[test]
fn a_run_lies_in_one_shard_in_order_and_the_next_elsewhere() {
    let (schema, entropy, mut minter) = (Schema::new("q", 16).unwrap(), SeededEntropy::new(1), Minter::default());
    let ids: Vec<_> = (0..1_024).map(|_| minter.mint(&entropy)).collect();
    assert!(ids.iter().all(|id| id.len() == MINTED_BYTES));
    let mut shards = std::collections::BTreeSet::new();
    for run in ids.chunks(RUN_JOBS.into()) {
        assert!(run.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(run.iter().all(|id| schema.shard_of(id) == schema.shard_of(&run[0])));
        shards.insert(schema.shard_of(&run[0]));
    }
    assert!(shards.len() > 6, "{shards:?}");
    let all: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(all.len(), ids.len());
}

#[test]
fn a_row_is_a_job_or_broken_or_of_a_later_version() {
    let read = |bytes: &'static [u8]| JobRow::decode(&bytes.into()).map(|job| job.payload);
    assert_eq!(read(b"\x01\0\0\0\x05\x01p"), Ok("p".into()));
    assert_eq!(read(b"\x01\0\0\0\x05\x01"), Ok("".into()));
    for broken in [&b""[..], b"\0", b"\x01", b"\x01\0\0\0\x05"] {
        assert_eq!(read(broken), Err(Unreadable::Broken));
    }
    assert_eq!(read(b"\x02"), Err(Unreadable::Newer));
    assert_eq!(read(b"\xff\0\0\0\x05\x01p"), Err(Unreadable::Newer));
}

#[test]
fn a_mark_names_one_row() {
    let ticket = |lane, due| Ticket { lane, due: at(due), id: JobId::from_slice(b"i") };
    let mark = Mark::open(1, at(2));
    assert!(mark.names(&ticket(1, 2)) && !mark.names(&ticket(0, 2)) && !mark.names(&ticket(1, 3)));
    assert!(![Fate::Done, Fate::Dead].iter().any(|&fate| Mark { fate, ..mark }.names(&ticket(1, 2))));
}

proptest! {
    #[test]
    fn a_ticket_comes_back(lane: u8, due in 0..1_u64 << 50, id in proptest::collection::vec(0..4_u8, 1..20)) {
        let ticket = Ticket { lane, due: at(due), id: JobId::from_vec(id) };
        prop_assert_eq!(ticket_of(&sort(&ticket)), Some(ticket));
    }

    /// The short way reads what the long one reads, and no more.
    #[test]
    fn what_is_no_ticket_is_none(bytes in proptest::collection::vec(0..3_u8, 0..16)) {
        let long = tuple::decode::<(u8, u64, Vec<u8>)>(&bytes).ok();
        let long = long.filter(|&(_, due, _)| Timestamp::from_micros(due).is_ok());
        prop_assert_eq!(ticket_of(&bytes).map(|ticket| ticket.id.to_vec()), long.map(|(_, _, id)| id));
    }
}
