//! What pf(4) is told and how large it is: rules as text for pfctl(8), and the sizes of its tables. Pure: the FreeBSD backend
//! runs pfctl(8).

pub mod rules;
pub mod sizes;
