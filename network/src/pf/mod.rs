//! Rules for pf(4) as text for pfctl(8), and the sizes of its tables. Pure: the FreeBSD backend runs pfctl(8).

pub mod rules;
pub mod sizes;
