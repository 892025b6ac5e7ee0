#![no_main]
shears_fuzz::run!("plan");
