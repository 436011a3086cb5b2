//! Times in human form: a date, how long ago, or milliseconds since 1970.

use std::str::FromStr;

const MS_PER_DAY: i64 = 86_400_000;

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Milliseconds since 1970.
    At(i64),
    /// Milliseconds before now.
    Ago(i64),
}

impl When {
    /// In milliseconds since 1970.
    pub(super) fn resolve(self, now_ms: i64) -> i64 {
        match self {
            When::At(ms) => ms,
            When::Ago(ms) => now_ms.saturating_sub(ms).max(0),
        }
    }
}

/// The error for an invalid time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a time is how long ago (90s, 15m, 2h, 7d), a date in UTC (2026-01-31 or 2026-01-31T18:30:00Z), or milliseconds since 1970"
)]
pub(super) struct NotATime;

impl FromStr for When {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<When, NotATime> {
        if let Ok(ms) = text.parse::<i64>() {
            return if ms >= 0 { Ok(When::At(ms)) } else { Err(NotATime) };
        }
        ago(text).map(When::Ago).or_else(|| date(text).map(When::At)).ok_or(NotATime)
    }
}

fn ago(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit_ms = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => MS_PER_DAY,
        _ => return None,
    };
    number.parse::<u32>().ok().map(|n| i64::from(n) * unit_ms)
}

fn date(text: &str) -> Option<i64> {
    let (day, time) = match text.split_once(['T', ' ']) {
        Some((day, time)) => (day, time.strip_suffix('Z').unwrap_or(time)),
        None => (text, "00:00:00"),
    };
    let mut parts = day.splitn(3, '-').map(number);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let (time, millis) = match time.split_once('.') {
        Some((time, fraction)) => (time, number(&format!("{fraction:0<3}")[..3])?),
        None => (time, 0),
    };
    let mut parts = time.splitn(3, ':').map(number);
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    let is_date = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    is_date.then(|| {
        days_since_1970(year, month, day) * MS_PER_DAY + ((hour * 60 + minute) * 60 + second) * 1_000 + millis
    })
}

fn number(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let leap_days = (before / 4 - before / 100 + before / 400) - (1969 / 4 - 1969 / 100 + 1969 / 400);
    let months: i64 = (1..month).map(|month| days_of(year, month)).sum();
    (year - 1970) * 365 + leap_days + months + day - 1
}

/// A time in ISO 8601: `2026-01-31T18:30:00.000Z`.
pub(super) fn date_text(ms: i64) -> String {
    let (days, of_day) = (ms.div_euclid(MS_PER_DAY), ms.rem_euclid(MS_PER_DAY));
    let mut year = 1970 + days.div_euclid(366).max(0);
    while days_since_1970(year + 1, 1, 1) <= days {
        year += 1;
    }
    let (mut month, mut day) = (1, days - days_since_1970(year, 1, 1) + 1);
    while day > days_of(year, month) {
        day -= days_of(year, month);
        month += 1;
    }
    let (seconds, millis) = (of_day / 1_000, of_day % 1_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// A duration in at most two units: `0s`, `4.2s`, `3m 20s`, `2h 5m`, `3d 4h`.
pub(super) fn lasting(ms: i64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        _ if ms == 0 => "0s".to_string(),
        0..10 => format!("{}.{}s", seconds, ms % 1_000 / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_or_ages_or_milliseconds() {
        for (text, wanted) in [
            ("1700000000000", When::At(1_700_000_000_000)),
            ("0", When::At(0)),
            ("90s", When::Ago(90_000)),
            ("15m", When::Ago(900_000)),
            ("7d", When::Ago(604_800_000)),
            ("1970-01-01", When::At(0)),
            ("2000-03-01T00:00:00Z", When::At(951_868_800_000)),
            ("2024-02-29T12:34:56.789Z", When::At(1_709_210_096_789)),
            ("2026-11-24 10:00", When::At(1_795_514_400_000)),
        ] {
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
        for wrong in ["", "-5", "soon", "2026-02-29", "2026-13-01", "2026-01-01T25:00:00Z", "m", "1w", "é"] {
            assert_eq!(wrong.parse::<When>(), Err(NotATime), "{wrong}");
        }
        assert_eq!(When::Ago(1_000).resolve(5_000), 4_000);
    }

    #[test]
    fn what_is_printed_is_what_is_read() {
        for ms in
            [0, 951_868_799_999, 951_868_800_000, 1_709_210_096_789, 4_102_444_800_000, 1_735_689_599_000]
        {
            assert_eq!(date_text(ms).parse(), Ok(When::At(ms)), "{}", date_text(ms));
        }
    }

    #[test]
    fn durations_are_short() {
        for (ms, text) in [
            (0, "0s"),
            (50, "0.0s"),
            (4_250, "4.2s"),
            (59_999, "59s"),
            (200_000, "3m 20s"),
            (7_500_000, "2h 5m"),
            (273_600_000, "3d 4h"),
        ] {
            assert_eq!(lasting(ms), text);
        }
    }
}
