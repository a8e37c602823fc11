mod cron;
mod recurrence;
