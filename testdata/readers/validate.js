// Validates JSON documents. Standard input has lines {"name", "schema", "value"}: schema is a JSON Schema, or the text
// "asyncapi" for AsyncAPI's own of 3.0.0. Prints a line {"name", "said"} for each, with "valid" or what is wrong.
'use strict';

const modules = process.argv[2] + '/';
const Ajv = require(modules + 'ajv');
const Ajv2020 = require(modules + 'ajv/dist/2020');

// Formats are notes. AsyncAPI's schema has keywords that are no JSON Schema, and draft 7's own schema within it.
const options = {strict: false, validateFormats: false};
const asyncapi = new Ajv({...options, meta: false, validateSchema: false}).compile(require(modules + '@asyncapi/specs/schemas/3.0.0.json'));

for (const line of require('fs').readFileSync(0, 'utf8').split('\n').filter(Boolean)) {
  const c = JSON.parse(line);
  const validate = c.schema === 'asyncapi' ? asyncapi : new Ajv2020(options).compile(c.schema);
  let said = 'valid';
  if (!validate(c.value)) {
    said = validate.errors.slice(0, 20).map(e => e.instancePath + ' ' + e.message + ' ' + JSON.stringify(e.params)).join('\n');
  }
  console.log(JSON.stringify({name: c.name, said}));
}
