//! Millstream's tests from the outside: house rules, faults, real clients.
