// js-ipfs calls Promise.withResolvers, which Node.js has only from version 22 on.
if (!Promise.withResolvers) {
  Promise.withResolvers = function () {
    const made = {}
    made.promise = new this((resolve, reject) => Object.assign(made, { resolve, reject }))
    return made
  }
}
