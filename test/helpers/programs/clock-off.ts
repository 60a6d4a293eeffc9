// Loaded before a process starts: its clock is off by CLOCK_OFF_MS. Node's own timers are not.
const off = Number(process.env.CLOCK_OFF_MS)
const now = Date.now
const RealDate = Date
Date.now = () => now() + off
globalThis.Date = new Proxy(RealDate, {
  construct: (target, args, newTarget) =>
    Reflect.construct(target, args.length === 0 ? [RealDate.now()] : args, newTarget) as Date,
})

export {}
