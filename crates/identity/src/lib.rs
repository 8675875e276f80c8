//! Who a device is: assertions, key updates, replay rules, and the tokens issued for it.
