//! Rulesets of nftables as text for nft(8). Pure: the Linux backend runs nft(8).

pub mod rules;
