// Prints what Node gives for a name (argument 3) in a family (argument 2: 4, 6 or anything for both), by the call
// named in argument 1: lookup (getaddrinfo) or resolve (c-ares).
const dns = require('dns').promises;
const [call, family, name] = process.argv.slice(2);
const families = family === '4' || family === '6' ? [family] : ['4', '6'];

async function addresses() {
  if (call === 'lookup') {
    const found = await dns.lookup(name, { all: true, family: families.length === 1 ? Number(family) : 0 });
    return found.map((entry) => entry.address);
  }
  const found = await Promise.allSettled(families.map((one) => dns[`resolve${one}`](name)));
  const failed = found.filter((one) => one.status === 'rejected');
  if (failed.length === found.length) throw failed[0].reason;
  return found.flatMap((one) => one.value ?? []);
}

addresses().then(
  (list) => list.forEach((address) => console.log('address', address)),
  (error) => console.log('failed', error.code),
);
