// Decodes values with avsc and prints what each becomes in a line; see read.py for the form of both.
'use strict';

const avro = require(process.argv[2]);
const util = require('util');

for (const line of require('fs').readFileSync(0, 'utf8').split('\n').filter(Boolean)) {
  const c = JSON.parse(line);
  let said;
  try {
    const value = avro.Type.forSchema(JSON.parse(c.schema)).fromBuffer(Buffer.from(c.avro, 'hex'));
    said = util.inspect(value, {breakLength: Infinity, depth: null});
  } catch (e) {
    said = 'Error: ' + e.message.split(':')[0];
  }
  console.log(JSON.stringify({name: c.name, said}));
}
